"""Waiting for a database or an event log that is away for a while: a run that has come so far is not given up."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ai_agent.domain.errors import ServiceUnavailable

PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 0.5


async def patiently(work: Callable[[], Awaitable[None]]) -> None:
    """Does the work again while what it needs is away. Raises ServiceUnavailable when that takes a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await work()
        except ServiceUnavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(RETRY_SECONDS)
