"""Bare ASGI that streams bytes which it was given, one event a write: all that a stream costs without anything else.

`/replay` sends them as quickly as they are taken, `/live` one every ten milliseconds.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

_FRAMES = [frame + b"\n\n" for frame in Path(os.environ["BENCH_FRAMES"]).read_bytes().split(b"\n\n") if frame]
_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    live = scope["path"] == "/live"
    await send(_START)
    for frame in _FRAMES:
        if live:
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
