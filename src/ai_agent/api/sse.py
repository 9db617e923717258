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
from ai_agent.realtime.event_log import Position
from ai_agent.realtime.follow import Batch

KEEPALIVE_SECONDS = 15.0
LARGEST_SEQ = 2**31 - 1
START = Position("", 0)

_encode = msgspec.json.Encoder().encode


def event_stream(batches: AsyncIterator[Batch], execution_id: UUID) -> Stream:
    return Stream(
        _chunks(batches),
        status_code=200,
        headers={
            "Content-Type": "text/event-stream",  # Litestar would add a charset, which the format fixes itself.
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "Content-Location": f"/api/v1/executions/{execution_id}",
        },
    )


async def _chunks(batches: AsyncIterator[Batch]) -> AsyncIterator[bytes]:
    """One chunk a batch. The next batch is asked for when the client has taken this one."""
    yield b"retry: 2000\n\n"
    last = time.monotonic()
    async for epoch, events in batches:
        if events:
            yield b"".join([_frame(epoch, event) for event in events])
            last = time.monotonic()
        elif time.monotonic() - last >= KEEPALIVE_SECONDS:
            # Proxies close what is silent.
            yield b": keep-alive\n\n"
            last = time.monotonic()


def _frame(epoch: str, event: EventFrame) -> bytes:
    head = f"id: {epoch}:{event.seq}\nevent: {event.type}\ndata: ".encode()
    return head + _encode(event) + b"\n\n"


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
