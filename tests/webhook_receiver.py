"""A receiver of webhooks that answers as a test tells it to, and one that tells whether anybody came."""

import socket
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Got:
    """One attempt, as it came."""

    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Says:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hang: float = 0
    """Seconds before the answer, cut short when the receiver is closed."""


class Receiver:
    """Each path has a script of its own; behind its end the answer is 200."""

    def __init__(self) -> None:
        self._got: dict[str, list[Got]] = defaultdict(list)
        self._script: dict[str, deque[Says]] = defaultdict(deque)
        self._came = threading.Condition()
        self.closed = threading.Event()
        handler = type("Handler", (_Handler,), {"receiver": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self._http.shutdown()
        self._http.server_close()

    def script(self, path: str, *answers: Says) -> str:
        """Tells a path what to answer; answers its address."""
        self._script[path].extend(answers)
        return self.url + path

    def got(self, path: str) -> list[Got]:
        return list(self._got[path])

    def wait(self, path: str, count: int, seconds: float = 15) -> list[Got]:
        """So many attempts at a path, or more."""
        with self._came:
            assert self._came.wait_for(lambda: len(self._got[path]) >= count, seconds), self._got[path]
        return self.got(path)

    def take(self, path: str, got: Got) -> Says:
        with self._came:
            self._got[path].append(got)
            self._came.notify_all()
            script = self._script[path]
            return script.popleft() if script else Says()


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        says = self.receiver.take(self.path, Got(headers, body, time.monotonic()))
        self.receiver.closed.wait(says.hang)
        try:
            self.send_response(says.status)
            for name, value in says.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(says.body)
        except (BrokenPipeError, ConnectionResetError):
            pass


class Canary:
    """Listens, and answers nobody."""

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0))
        self._socket.setblocking(False)
        self.url = f"http://{host}:{self._socket.getsockname()[1]}/"

    def was_reached(self) -> bool:
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()
