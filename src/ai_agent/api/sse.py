"""Server-sent events of an execution.

Source: WHATWG HTML, "Server-sent events". `id` is `<epoch>:<seq>`, `data` the whole event frame.
"""

import time
from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
from litestar.response import Stream

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.events import EventFrame

KEEPALIVE_SECONDS = 15.0
LARGEST_SEQ = 2**31 - 1

_encode = msgspec.json.Encoder().encode


def event_stream(epoch: str, events: AsyncIterator[list[EventFrame]], execution_id: UUID) -> Stream:
    return Stream(
        _frames(epoch, events),
        status_code=200,
        headers={
            "Content-Type": "text/event-stream",  # Litestar would add a charset, which the format fixes itself.
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "Content-Location": f"/api/v1/executions/{execution_id}",
        },
    )


async def _frames(epoch: str, events: AsyncIterator[list[EventFrame]]) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    last = time.monotonic()
    async for batch in events:
        if batch:
            yield b"".join([_frame(epoch, event) for event in batch])
            last = time.monotonic()
        elif time.monotonic() - last >= KEEPALIVE_SECONDS:
            # Proxies close what is silent.
            yield b": keep-alive\n\n"
            last = time.monotonic()


def _frame(epoch: str, event: EventFrame) -> bytes:
    head = f"id: {epoch}:{event.seq}\nevent: {event.type}\ndata: ".encode()
    return head + _encode(event) + b"\n\n"


def resume_position(position: str | None, epoch: str) -> int:
    """The `seq` of `<epoch>:<seq>` or of a bare number; 0 for another epoch, so that all is read again.

    Raises InvalidFields for anything else.
    """
    if not position:
        return 0
    known_epoch, _, seq = position.rpartition(":")
    if not (seq.isascii() and seq.isdigit()) or len(seq) > 10 or int(seq) > LARGEST_SEQ:
        raise InvalidFields([FieldError("after", "Must be <epoch>:<seq> or a number", position[:200])])
    return int(seq) if known_epoch in ("", epoch) else 0
