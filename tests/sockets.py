"""A client of the WebSocket, as tests speak: frames as dictionaries, in either codec."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.conftest import KEY, Server
from tests.traffic import assert_described

JSON, MSGPACK = "aiagent.v1.json", "aiagent.v1.msgpack"
Frame = dict[str, Any]


class Socket:
    """Pings of the server are answered, and shown to nobody, unless `silent`."""

    def __init__(self, connection: ClientConnection, codec: str = JSON, *, silent: bool = False):
        self.connection = connection
        self._codec = codec
        self._silent = silent
        self._next_id = 100
        self._heard: list[Frame] = []

    def send(self, frame: object) -> None:
        packed = self._codec == MSGPACK
        self.connection.send(msgspec.msgpack.encode(frame) if packed else json.dumps(frame))

    def receive(self, seconds: float = 15) -> Frame:
        while True:
            frame = self._receive(seconds)
            if frame["t"] != "ping" or self._silent:
                return frame
            self.send({"t": "pong"})

    def _receive(self, seconds: float) -> Frame:
        if not self._heard:
            message = self.connection.recv(seconds)
            assert isinstance(message, bytes) == (self._codec == MSGPACK)
            frame = msgspec.msgpack.decode(message) if isinstance(message, bytes) else json.loads(message)
            self._heard += frame if isinstance(frame, list) else [frame]
        frame = self._heard.pop(0)
        assert_described(frame, "received")
        return frame

    def ask(self, kind: str, **fields: Any) -> Frame:
        """The reply to a command; what comes before it is left for later. What is taken has to be documented."""
        self._next_id += 1
        command = {"t": kind, "id": self._next_id, **fields}
        self.send(command)
        others: list[Frame] = []
        while (frame := self.receive()).get("id") != self._next_id:
            others.append(frame)
        self._heard = others + self._heard
        if frame["t"] != "error":
            assert_described(command, "sent")
        return frame

    def connect(self, token: str | None = KEY, **fields: Any) -> Frame:
        return self.ask("connect", **({"token": token} if token else {}), **fields)

    def until(self, kind: str, seconds: float = 10) -> list[Frame]:
        """All frames up to the next of a kind."""
        frames = [self.receive(seconds)]
        while frames[-1]["t"] != kind:
            frames.append(self.receive(seconds))
        return frames

    def events(self, count: int, seconds: float = 10) -> list[Frame]:
        found: list[Frame] = []
        while len(found) < count:
            frame = self.receive(seconds)
            if frame["t"] == "event":
                found.append(frame)
        return found

    def closed(self, seconds: float = 10) -> tuple[list[Frame], int, str]:
        """What is said before the end, and the code and the reason of it."""
        frames: list[Frame] = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                frames.append(self.receive(seconds))
        assert closed.value.rcvd is not None
        return frames, closed.value.rcvd.code, closed.value.rcvd.reason


@contextmanager
def opened(server: Server, path: str = "/ws", codec: str | None = JSON, **options: Any) -> Iterator[Socket]:
    url = server.url.replace("http", "ws", 1) + path
    protocols = [Subprotocol(codec)] if codec else None
    silent = options.pop("silent", False)
    with connect(url, subprotocols=protocols, ping_interval=None, max_size=2**22, **options) as connection:
        assert connection.subprotocol == codec or codec not in (JSON, MSGPACK)
        yield Socket(connection, codec or JSON, silent=silent)


@contextmanager
def conversing(
    server: Server, path: str = "/ws", codec: str = JSON, token: str = KEY, **fields: Any
) -> Iterator[Socket]:
    """A socket whose conversation is open."""
    with opened(server, path, codec) as socket:
        assert socket.connect(token, **fields)["t"] == "welcome"
        yield socket
