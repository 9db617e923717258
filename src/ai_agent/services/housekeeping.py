"""Removes, again and again, what is kept no longer. Every node does it; the second one finds nothing to do."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.storage.database import Connection, Database

SECONDS = 600.0

log = structlog.get_logger()


async def removed_in_steps(database: Database, some: Callable[[Connection], Awaitable[int]]) -> int:
    """Lets `some` remove rows until it finds none, each time in a transaction of its own; tells how many they were."""
    removed = 0
    while True:
        async with database.unit_of_work() as rows:
            step = await some(rows)
        removed += step
        if step == 0:
            return removed


class Housekeeping:
    """`chores` by name; each removes what is too old and tells how many rows that were."""

    def __init__(self, chores: dict[str, Callable[[], Awaitable[int]]], *, seconds: float = SECONDS):
        self._chores = chores
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        await cancel_and_wait(self._task)

    async def _run(self) -> None:
        while True:
            for name, chore in self._chores.items():
                try:
                    removed = await chore()
                    log.debug("housekeeping", chore=name, removed=removed)
                except Exception:
                    # The next time will do: what is too old does no harm but take space.
                    log.exception("housekeeping_failed", chore=name)
            await asyncio.sleep(self._seconds)
