"""Runs an image without a container engine, as root, after build-without-registry.sh: `python -m docker.try_image`.

Every service of compose.yaml by its own command, inside the image's files: a read-only root, a user who is nobody
special, nothing writable but /data and /tmp. PostgreSQL and Redis come as Python packages. It prints sizes, times from
a start to ready, and how each one ends.
"""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from ai_agent.security.api_keys import generate
from tests.compose import Stack
from tests.servers import PostgresServer, ValkeyServer

STARTS = 7
ENTER = """
set -e
root="$1"; shift
mount --bind "$root" "$root" && mount -o remount,bind,ro "$root"
mount -t tmpfs -o uid=10001,gid=10001,mode=0700 tmpfs "$root/data"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc"
exec chroot --userspec=10001:10001 "$root" "$@"
"""


def buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def try_image(root: Path, configuration: dict[str, object]) -> None:
    inside = ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(root)]
    entrypoint = [str(word) for word in configuration["Entrypoint"]]  # type: ignore[attr-defined]
    image = dict(variable.partition("=")[::2] for variable in configuration["Env"])  # type: ignore[attr-defined]
    filled_in = {
        "AI_AGENT_SECRET_KEY": "a-secret-key-of-32-characters-or-more",
        "AI_AGENT_BOOTSTRAP_API_KEY": generate("production"),
    }
    postgres, valkey = PostgresServer(), ValkeyServer()
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    stack = Stack(postgres.url, valkey.url, folder, entrypoint, inside, HOME="/data", **image, **filled_in)
    try:
        stack.start()
        print("migrate, api-1, api-2, worker-1, worker-2 and the proxy are up")
        refused = subprocess.run(
            [*inside, "sh", "-c", "id -u; touch /opt/x /etc/x; touch /data/x"], capture_output=True, text=True
        )
        print("as", refused.stdout.strip(), "-", "; ".join(refused.stderr.splitlines()))
        for name, service in (("api", stack.first), ("worker", stack.workers[0])):
            print(name, "resident:", psutil.Process(service.process.pid).memory_info().rss // 2**20, "MiB")
        times, spent = [], []
        for _ in range(STARTS):
            asked = time.monotonic()
            assert stack.second.stop() == 0
            stopped = time.monotonic() - asked
            asked = time.monotonic()
            stack.second.start()
            while not ready(stack.second.port):
                time.sleep(0.01)
            times.append(time.monotonic() - asked)
            used = psutil.Process(stack.second.process.pid).cpu_times()
            spent.append(used.user + used.system)
        print(f"start to ready: median {statistics.median(times):.2f} s, shortest {min(times):.2f} s")
        print(f"of that CPU: {statistics.median(spent):.2f} s; a stop with its drain: {stopped:.1f} s")
        print("worker ends with", stack.workers[0].stop(), "and starts again")
        stack.workers[0].start()
        stack.workers[0].healthy()
    finally:
        stack.stop()
        valkey.stop()
        postgres.stop()


def ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "ai-agent:local"
    container = buildah("from", name)
    try:
        root = Path(buildah("mount", container))
        files = [path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        print(f"{name}: {sum(files) / 1e6:.0f} MB in {len(files)} files")
        try_image(root, json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"])
    finally:
        buildah("rm", container)


if __name__ == "__main__":
    main()
