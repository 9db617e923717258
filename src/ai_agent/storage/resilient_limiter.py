"""Rate limits that go on when Redis does not: counted in this process, until a probe finds it back."""

import asyncio
from contextvars import Context

import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.rate_limits import Hit, Strategy, Verdict
from ai_agent.observability.metrics import LIMITER_CHANGES, LIMITER_ON_MEMORY
from ai_agent.storage.limiter import MemoryLimiter
from ai_agent.storage.redis_limiter import RedisAway, RedisLimiter

PROBE_SECONDS = 0.5

log = structlog.get_logger()


class ResilientLimiter:
    def __init__(self, redis: RedisLimiter, strategy: Strategy):
        self._redis = redis
        # One for the life of the process: who makes Redis fail again and again gets no new windows by it.
        self._memory = MemoryLimiter(strategy)
        self._prober: asyncio.Task[None] | None = None
        self.degraded = False
        """Whether each node counts by itself."""

    async def start(self) -> None:
        """A server starts without Redis, too."""
        await self.check()

    async def check(self) -> None:
        if not self.degraded and (error := await self._probe()) is not None:
            self._fall_back(error)

    async def charge(self, hit: Hit) -> Verdict:
        if not self.degraded:
            try:
                return await self._redis.charge(hit)
            except RedisAway as error:
                self._fall_back(error)
        return await self._memory.charge(hit)

    def _fall_back(self, error: Exception) -> None:
        if self.degraded:
            return
        self.degraded = True
        # In a context of its own: it is no part of the request that met the fault.
        self._prober = asyncio.create_task(self._watch(), context=Context())
        LIMITER_ON_MEMORY.set(1)
        LIMITER_CHANGES.labels("memory").inc()
        log.warning("rate_limits_on_memory", reason=str(error), hint="Each node counts by itself until Redis is back")

    async def _watch(self) -> None:
        while await self._probe() is not None:  # noqa: ASYNC110  # nobody tells when Redis is back
            await asyncio.sleep(PROBE_SECONDS)
        self.degraded = False
        LIMITER_ON_MEMORY.set(0)
        LIMITER_CHANGES.labels("redis").inc()
        log.warning("rate_limits_on_redis", hint="All nodes count together again")

    async def _probe(self) -> Exception | None:
        try:
            await self._redis.probe()
        except Exception as error:
            return error
        return None

    async def close(self) -> None:
        await cancel_and_wait(self._prober)
        self._redis.close()
