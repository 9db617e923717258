"""An HTTP server that does at each path what a test tells it to, down to the bytes."""

import contextlib
import json
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Got:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Does = Callable[[socket.socket], None]
"""What becomes of a connection whose request was read; it is closed afterwards."""


def answers(body: bytes | str | Any = b"", status: int = 200, **headers: str) -> Does:
    """JSON of what is neither bytes nor text; headers have `_` for `-`."""
    content_type = "application/octet-stream" if isinstance(body, bytes) else "text/plain; charset=utf-8"
    if not isinstance(body, bytes | str):
        body, content_type = json.dumps(body), "application/json"
    content = body if isinstance(body, bytes) else body.encode()
    told = {"content-type": content_type, "content-length": str(len(content))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())

    def answer(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 {status} So\r\n{head}\r\n".encode("latin-1") + content)

    return answer


def says(raw: bytes) -> Does:
    """Bytes as they are."""
    return lambda connection: connection.sendall(raw)


def resets(connection: socket.socket) -> None:
    """Lingering for no time makes closing a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Peer:
    """A path is a request's target up to its query; what nobody told it of, it answers with `{"path": …}`."""

    def __init__(self) -> None:
        self._does: dict[str, Does] = {}
        self._got: dict[str, list[Got]] = defaultdict(list)
        self._changed = threading.Condition()
        self.left: list[str] = []
        """Paths at which a client went away while it was kept waiting."""
        self.sent: dict[str, int] = defaultdict(int)
        """Bytes that were poured, by path, into all connections together."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def at(self, path: str, does: Does) -> str:
        """Tells a path what to do; answers its address."""
        self._does[path] = does
        return self.url + path

    def hangs(self, path: str, first: bytes = b"") -> str:
        """Says the first bytes, and then nothing until the client leaves."""

        def hang(connection: socket.socket) -> None:
            connection.sendall(first)
            connection.settimeout(30)
            try:
                connection.recv(1)
            except ConnectionError:
                pass
            except TimeoutError:
                return
            with self._changed:
                self.left.append(path)
                self._changed.notify_all()

        return self.at(path, hang)

    def pours(self, path: str, size: int, head: bytes) -> str:
        """Sends so many bytes behind a head, as fast as they are taken."""

        def pour(connection: socket.socket) -> None:
            connection.sendall(head)
            left = size
            while left > 0:
                sent = connection.send(b"x" * min(left, 65536))
                self.sent[path] += sent
                left -= sent

        return self.at(path, pour)

    def got(self, path: str) -> list[Got]:
        return list(self._got[path])

    def wait(self, path: str, count: int = 1, seconds: float = 10) -> list[Got]:
        """So many requests at a path, or more."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._got[path]) >= count, seconds), self._got[path]
        return self.got(path)

    def was_left(self, path: str, seconds: float = 5) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: path in self.left, seconds)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError, TimeoutError):
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            method, target, _ = reader.readline().decode().split(" ")
            headers: dict[str, str] = {}
            while (line := reader.readline().strip()) != b"":
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            body = reader.read(int(headers.get("content-length", 0)))
        path = target.partition("?")[0]
        with self._changed:
            self._got[path].append(Got(method, target, headers, body))
            self._changed.notify_all()
        self._does.get(path, answers({"path": path}))(connection)


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
