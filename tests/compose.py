"""`docker/compose.yaml` as compose reads it, and its services as processes on loopback."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.servers import free_port

DOCKER = Path(__file__).parents[1] / "docker"


def load(variables: Mapping[str, str]) -> Any:
    """Anchors are merged, variables put in. Raises KeyError for a variable that has to be set."""

    def value(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        return variables[name] if default is None else variables.get(name) or default

    text = (DOCKER / "compose.yaml").read_text()
    return yaml.safe_load(re.sub(r"\$\{(?P<name>\w+):(?:\?|-(?P<default>[^}]*))\}", value, text))


PORTS = ("8000", "9000")
"""Of an API node, and of a worker."""

HERE = (sys.executable, "-m", "ai_agent")


class Service:
    """A service's command, environment, health check and grace time; only addresses are those of the test.

    `entrypoint` stands before its command, `inside` before everything that is run.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, str],
        entrypoint: Sequence[str],
        inside: Sequence[str] = (),
    ):
        self._service = load({"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"})["services"][name]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder / name
        self._folder.mkdir()
        self.log = self._folder / "log"
        self._entrypoint, self._inside = entrypoint, inside
        own = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "AI_AGENT_DATA_DIR": str(self._folder)}
        self._environment = own | self._service["environment"] | settings

    def _here(self, words: Sequence[str]) -> list[str]:
        mounts = dict(
            volume.split(":")[1::-1] for volume in self._service.get("volumes", []) if volume.startswith("./")
        )
        put = (
            {"0.0.0.0": "127.0.0.1"}
            | dict.fromkeys(PORTS, str(self.port))
            | {at: str(DOCKER / file) for at, file in mounts.items()}
        )
        return [put.get(word, word) for word in words]

    def start(self) -> None:
        command = [*self._inside, *self._entrypoint, *self._here(self._service["command"])]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self._environment, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT
            )

    def finish(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    def healthy(self, seconds: float = 30) -> None:
        """Until its health check says so; of a service without one, until it is there for a second."""
        kind, *command = self._service.get("healthcheck", {}).get("test", ["CMD", "sleep", "1"])
        assert kind == "CMD"
        command = [*self._inside, *(re.sub("|".join(PORTS), str(self.port), word) for word in command)]
        deadline = time.monotonic() + seconds
        while subprocess.run(command, check=False, capture_output=True, timeout=30).returncode != 0:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        assert self.process.poll() is None, self.log.read_text()

    def stop(self) -> int:
        """Its exit code, if it goes within the time that compose gives it."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(int(self._service["stop_grace_period"].removesuffix("s")))


class Stack:
    """Every service of ours, and the proxy, which is the real one. PostgreSQL and Redis are given."""

    def __init__(
        self,
        database_url: str,
        redis_url: str,
        folder: Path,
        entrypoint: Sequence[str] = HERE,
        inside: Sequence[str] = (),
        **settings: str,
    ):
        shared = {"AI_AGENT_DATABASE_URL": database_url, "AI_AGENT_REDIS_URL": redis_url} | settings
        shared["AI_AGENT_TRUSTED_PROXIES"] = "127.0.0.1/32"  # Where the proxy is here.
        ours = ("migrate", "api-1", "api-2", "worker-1", "worker-2")
        self.migrate, self.first, self.second, *self.workers = (
            Service(name, folder, shared, entrypoint, inside) for name in ours
        )
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        nodes = f"127.0.0.1:{self.first.port} 127.0.0.1:{self.second.port}"
        proxied = {"SITE": self.url, "UPSTREAMS": nodes, "PATH": str(Path(sys.executable).parent)}
        self.proxy = Service("proxy", folder, proxied, ())

    def start(self) -> None:
        """In the order of `depends_on`."""
        self.migrate.start()
        assert self.migrate.finish() == 0, self.migrate.log.read_text()
        for service in (self.first, self.second, *self.workers):
            service.start()
        for service in (self.first, self.second, *self.workers):
            service.healthy()
        self.proxy.start()
        self.proxy.healthy()

    def stop(self) -> None:
        running = [one for one in (self.proxy, self.first, self.second, *self.workers) if hasattr(one, "process")]
        for service in running:
            service.process.terminate()
        for service in running:
            service.process.wait(60)
