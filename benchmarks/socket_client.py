"""A WebSocket client that does as little as it can, so that one core can load a server on another one.

Source: RFC 6455. It reads unfragmented text and answers the protocol's own pings, which is all that these servers send.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from ai_agent.domain.frames import JSON_PROTOCOL

_TEXT, _CLOSE = 0x81, 0x88
_MASKED = 0x80
_NO_MASK = bytes(4)
"""A mask of zeros changes nothing, and costs nothing."""

PING = b'{"t":"ping"'
PONG = b'{"t":"pong"}'


class Socket(asyncio.Protocol):
    """`hear` is called with each message; until somebody sets it, `next` waits for them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.hear: Callable[[bytes], object] = self._queue.put_nowait
        self._data = b""
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, port: int, path: str, protocol: str = "") -> "Socket":
        _, socket = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
        await socket.shake_hands("\r\n".join(lines).encode() + b"\r\n\r\n")
        return socket

    async def shake_hands(self, request: bytes) -> None:
        self._transport.write(request)
        await self._opened

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(error or ConnectionError("The server closed the connection"))
        self._closed.set_result(None)
        self._queue.put_nowait(b"")

    def send(self, data: bytes) -> None:
        self._transport.write(_head(_TEXT, len(data)) + _NO_MASK + data)

    async def next(self) -> bytes:
        """Raises ConnectionError when the server has closed the connection."""
        if not (message := await self._queue.get()):
            raise ConnectionError("The server closed the connection")
        return message

    async def close(self) -> None:
        self._transport.write(_head(_CLOSE, 0) + _NO_MASK)
        self._transport.close()
        await self._closed

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        if not self._opened.done():
            head, end, data = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(head.decode())
            self._opened.set_result(None)
        at = 0
        while (end := _end(data, at)) is not None and end[1] <= len(data):
            if data[at] == _TEXT:
                self._take(data[end[0] : end[1]])
            at = end[1]
        self._data = data[at:]

    def _take(self, message: bytes) -> None:
        if message.startswith(PING):
            self.send(PONG)
        else:
            self.hear(message)


def _end(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame that begins at `at` begins and ends; None while nobody can know."""
    left = len(data) - at
    if left < 2:
        return None
    length, begin = data[at + 1], at + 2
    if length == 126:
        length, begin = int.from_bytes(data[begin : begin + 2]), begin + 2
    elif length == 127:
        length, begin = int.from_bytes(data[begin : begin + 8]), begin + 8
    return begin, begin + length if begin <= len(data) else len(data) + 1


def _head(kind: int, length: int) -> bytes:
    if length < 126:
        return bytes([kind, _MASKED | length])
    return bytes([kind, _MASKED | 126]) + length.to_bytes(2)


async def conversing(port: int, key: str, **fields: object) -> Socket:
    """A socket that has said `connect` and was welcomed."""
    socket = await Socket.open(port, "/ws", JSON_PROTOCOL)
    await ask(socket, "welcome", t="connect", token=key, **fields)
    return socket


async def ask(socket: Socket, kind: str, **frame: object) -> dict[str, Any]:
    """Sends a frame and answers the next one of a kind. Raises RuntimeError when the server says `error`."""
    socket.send(msgspec.json.encode({"id": 1, **frame}))
    while (answer := msgspec.json.decode(await socket.next()))["t"] != kind:
        if answer["t"] == "error":
            raise RuntimeError(answer)
    return dict(answer)
