"""What `/metrics` tells: what was counted, and what is looked at when it is asked for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ai_agent.background import cancel_and_wait
from ai_agent.observability.metrics import (
    POOL_IN_USE,
    POOL_SIZE,
    POOL_WAITING,
    TASKS,
    exposition,
    sampled,
    shared,
    take_samples,
)
from ai_agent.storage.database import Database

Look = Callable[[], Awaitable[None]]

SAMPLE_SECONDS = 1.0
"""How old may be what one process tells of another."""


class MetricsService:
    """`looks` ask the database of what is the same for all nodes."""

    def __init__(self, database: Database, looks: Sequence[Look]):
        self._database = database
        self._looks = looks
        self._sampling: asyncio.Task[None] | None = None

    def start(self) -> None:
        sampled("process", self._sample)
        if shared():
            self._sampling = asyncio.create_task(self._sample_for_ever())

    async def close(self) -> None:
        await cancel_and_wait(self._sampling)

    async def text(self) -> bytes:
        for look in self._looks:
            await look()
        take_samples()
        return exposition()

    def _sample(self) -> None:
        TASKS.set(len(asyncio.all_tasks()))
        use = self._database.pool_use()
        POOL_SIZE.set(use.size)
        POOL_IN_USE.set(use.in_use)
        POOL_WAITING.set(use.waiting)

    async def _sample_for_ever(self) -> None:
        """The others cannot look into this process."""
        while True:
            take_samples()
            await asyncio.sleep(SAMPLE_SECONDS)
