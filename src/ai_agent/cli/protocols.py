"""uvicorn's protocols, HTTP and WebSocket, with what they leave open: bounds for heads and slow clients, and ends."""

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN

from ai_agent.api.errors import error_body
from ai_agent.api.websocket.protocol import WRITE
from ai_agent.domain.errors import MalformedRequest
from ai_agent.domain.fields import new_id

HEAD_BYTES = 64 * 1024
REQUEST_SECONDS = 60.0
"""How long a client may take to send a request, and to begin with the first one."""
LOOK_SECONDS = 10.0


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, which would wait for ever for the end of a request, and keep a head of any size.

    Both cost a request next to nothing here: what has arrived as a whole is not looked at, and a connection has one
    timer for its life. What is no request is answered with our error.
    """

    _fault = "The request is not HTTP"
    _chunk = 0
    _unfinished = 0
    """Bytes of a head that has not ended yet."""
    _in_head = False
    _begun: float | None = None
    """When the request began that has not all arrived."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._begun = self.loop.time()
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._timer.cancel()  # From here on it is the other protocol's connection.
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        self._chunk = len(data)
        super().data_received(data)
        if self._in_head:
            self._unfinished += len(data)
            if self._unfinished > HEAD_BYTES:
                self._refuse(f"The head of the request is longer than {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        self._in_head, self._begun = True, self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._unfinished + self._chunk > HEAD_BYTES and self._head_size() > HEAD_BYTES:
            self._fault = f"The head of the request is longer than {HEAD_BYTES} bytes"
            raise ValueError(self._fault)  # The parser ends, and asks for `send_400_response`.
        self._in_head, self._unfinished = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._begun = None
        super().on_message_complete()

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _look(self) -> None:
        if self._begun is not None and self.loop.time() - self._begun > REQUEST_SECONDS:
            self._refuse(f"The request did not arrive within {REQUEST_SECONDS:g} s")
        else:
            self._timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def _refuse(self, message: str) -> None:
        self._fault = message
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if answering or self.transport.is_closing():
            self.transport.close()
        else:
            self.send_400_response(message)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's words are for everybody's servers
        scope = {"path": "", "correlation_id": new_id().hex}
        body = msgspec.json.encode(error_body(MalformedRequest(self._fault), scope))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, with two things more.

    It closes the socket of a client that takes nothing: its own waits until that takes something. `farewell`, beside
    the code, is sent before it. And it writes at once what does not have to wait (`Write`), framed once a message: what
    a server sends is not masked, so a message to many is the same bytes for all.
    """

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope["extensions"][WRITE] = self.write  # type: ignore[assignment]

    def write(self, message: Any) -> bool:
        if self.close_sent or self.disconnected or not self.writable.is_set() or self.conn.state is not OPEN:
            return False
        if (frame := message.get("frame")) is None:
            frame = message["frame"] = _framed(message)
        self.transport.write(frame)
        return True

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.send" and self.handshake_complete and self.write(message):
            return
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.writable.set()
            if farewell := message.pop("farewell", None):
                await super().send(farewell)
                self.writable.set()
            await super().send(message)
            self._cut_later()
        else:
            await super().send(message)

    def _cut_later(self) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)


def _framed(message: Any) -> bytes:
    text = message.get("text")
    frame = Frame(Opcode.BINARY, message["bytes"]) if text is None else Frame(Opcode.TEXT, text.encode())
    return frame.serialize(mask=False)
