"""Scenarios on an event loop of their own, for tests that are no coroutines."""

import asyncio
from collections.abc import Awaitable, Callable


def play(scenario: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Fails with TimeoutError where it takes longer."""

    async def run() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(run())
