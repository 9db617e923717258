"""Streams of JSON Lines, as files to save. Source: jsonlines.org."""

from collections.abc import AsyncIterator, Sequence

import msgspec
from litestar import Response
from litestar.response import Stream

from ai_agent.api.dependencies import Caller

NDJSON = "application/x-ndjson"

_encode = msgspec.json.Encoder().encode_lines


def json_lines(request: Caller, batches: AsyncIterator[Sequence[object]], filename: str) -> Response[object]:
    """Each object of each batch becomes a line, written as soon as its batch is there; plain text for who asks."""
    headers = {
        "Content-Type": "text/plain; charset=utf-8" if "text/plain" in request.headers.get("accept", "") else NDJSON,
        "Content-Disposition": f'attachment; filename="{filename}"',
    }
    return Stream(_encoded(batches), headers=headers)  # type: ignore[return-value]  # a Stream is a Response of chunks


async def _encoded(batches: AsyncIterator[Sequence[object]]) -> AsyncIterator[bytes]:
    async for batch in batches:
        yield _encode(batch)
