"""Whether what the server depends on is there. Whoever asks has an answer within a second, whatever hangs."""

import asyncio
import time
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

import msgspec

from ai_agent.background import cancel_and_wait
from ai_agent.domain.errors import AIAgentError, ServiceUnavailable
from ai_agent.storage import migrations
from ai_agent.storage.database import Database
from ai_agent.storage.limiter import Limiter

Result = TypeVar("Result")

ANSWER_SECONDS = 1.0
GOOD_FOR_SECONDS = 0.25
"""So long a look is good for others who ask: anybody may, and as often as they like."""


class Look(msgspec.Struct, frozen=True):
    """What was found: `failing` keeps requests from being served, `degraded` does not."""

    failing: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    database_ms: float = 0.0
    redis_ms: float = 0.0


class HealthService:
    def __init__(self, database: Database, limiter: Limiter):
        self._database = database
        self._limiter = limiter
        self._looking: asyncio.Task[Look] | None = None
        self._good_until = 0.0
        self.draining = False

    async def look(self) -> Look:
        """What is away; `draining` is failing, too. Those who ask at once have one answer."""
        if self._looking is None or (self._looking.done() and time.monotonic() >= self._good_until):
            # In a context of its own: it is no part of the request of who came first, and may be gone.
            self._looking = asyncio.create_task(self._look(), context=Context())
        await asyncio.wait([self._looking])
        found = self._looking.result()
        return msgspec.structs.replace(found, failing=("draining", *found.failing)) if self.draining else found

    async def check_ready(self) -> Look:
        """Raises ServiceUnavailable, with the failing checks named."""
        if self.draining:  # Whatever else there is, and without asking.
            raise _not_ready("draining")
        found = await self.look()
        if found.failing:
            raise _not_ready(*found.failing)
        return found

    async def close(self) -> None:
        await cancel_and_wait(self._looking)

    async def _look(self) -> Look:
        (failing, database_ms), (_, redis_ms) = await asyncio.gather(
            _measured(self._look_at_database()), _measured(self._limiter.check())
        )
        self._good_until = time.monotonic() + GOOD_FOR_SECONDS
        return Look(failing, ("redis",) if self._limiter.degraded else (), database_ms, redis_ms)

    async def _look_at_database(self) -> tuple[str, ...]:
        """What is wrong with it."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                revision = await migrations.current_revision(self._database)
        except (AIAgentError, TimeoutError):
            return ("database",)
        # Another database took the place of the one that we started with, such as a backup of before.
        return () if revision is not None and revision >= migrations.HEAD else ("schema",)


async def _measured(work: Coroutine[Any, Any, Result]) -> tuple[Result, float]:
    """What came of it, and how many milliseconds it took."""
    began = time.monotonic()
    return await work, round((time.monotonic() - began) * 1000, 1)


def _not_ready(*checks: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"Not ready: {', '.join(checks)}", details={"failing": list(checks)})
