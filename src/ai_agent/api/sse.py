"""Server-sent events of an execution.

Source: WHATWG HTML, "Server-sent events". `id` is `<epoch>:<seq>`, `data` the whole event frame.
"""

import asyncio
import random
import time
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from uuid import UUID

from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

from ai_agent.api.headers import CONNECTION_CLOSE
from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.events import EventFrame
from ai_agent.realtime.event_log import Position
from ai_agent.realtime.follow import Batch

KEEPALIVE_SECONDS = 15.0
LARGEST_SEQ = 2**31 - 1
RETRY_MS = 2000
COME_BACK_MS = 250, RETRY_MS
"""When all streams of a server end at once, each comes back at another time."""
START = Position("", 0)


class Reader(Protocol):
    @property
    def ended(self) -> bool: ...

    async def next(self) -> Batch | None: ...

    def leave(self) -> None: ...


class EventStream(Response[object]):
    """Tells a client what a reader hears. Litestar's own stream has a task more, and three layers an event."""

    __slots__ = ("_following",)

    def __init__(self, following: AbstractAsyncContextManager[Reader], execution_id: UUID):
        headers = {
            "Content-Type": "text/event-stream",  # Litestar would add a charset, which the format fixes itself.
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "Content-Location": f"/api/v1/executions/{execution_id}",
        }
        super().__init__(None, status_code=200, headers=headers)
        self._following = following

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]  # more than Litestar's own
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        if scope["http_version"] < "2":
            # It may end because the server stops, and then no request must follow.
            headers.append(CONNECTION_CLOSE)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _write(send, _retry(RETRY_MS))
        async with self._following as reader:
            leaving = asyncio.create_task(_leave(reader, receive))
            try:
                await _tell(reader, send)
            finally:
                leaving.cancel()
            if not reader.ended:
                await _write(send, _retry(random.randint(*COME_BACK_MS)))  # noqa: S311  # no secret
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _leave(reader: Reader, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.leave()


async def _tell(reader: Reader, send: Send) -> None:
    """One chunk a batch. The next batch is asked for when the client has taken this one."""
    last = time.monotonic()
    while (batch := await reader.next()) is not None:
        if batch.events:
            chunk = b"".join([_frame(batch.epoch, event) for event in batch.events])
        elif time.monotonic() - last >= KEEPALIVE_SECONDS:
            chunk = b": keep-alive\n\n"  # Proxies close what is silent.
        else:
            continue
        await _write(send, chunk)
        last = time.monotonic()


def _retry(milliseconds: int) -> bytes:
    return b"retry: %d\n\n" % milliseconds


def _write(send: Send, chunk: bytes) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": chunk, "more_body": True})


def _frame(epoch: str, event: EventFrame) -> bytes:
    head = f"id: {epoch}:{event.seq}\nevent: {event.type}\ndata: ".encode()
    return head + event.json + b"\n\n"


def resume_position(position: str | None) -> Position:
    """The place that `<epoch>:<seq>` names, or a bare number in the current epoch; without one the start.

    Raises InvalidFields for anything else.
    """
    if not position:
        return START
    epoch, _, seq = position.rpartition(":")
    if not (seq.isascii() and seq.isdigit()) or len(seq) > 10 or int(seq) > LARGEST_SEQ:
        raise InvalidFields([FieldError("after", "Must be <epoch>:<seq> or a number", position[:200])])
    return Position(epoch, int(seq))
