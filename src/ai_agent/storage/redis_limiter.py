"""Rate limits, counted in Redis by its clock, for all nodes together."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, cast

from ai_agent.domain.rate_limits import Charge, Hit, Plan, Strategy, Verdict, Window, WindowState
from ai_agent.storage.redis import RedisError, RedisWire, Reply

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "ai-agent:limits:"
AT_ONCE = 500
"""Hits in one call of the script, which keeps the server from all others."""

_SCRIPT = files(__package__).joinpath("rate_limits.lua").read_text()
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

_PROBE = Hit(Plan([Charge("probe", Window(1_000_000, 1, "a probe"))]), ["probe"])

Waiting = tuple[Hit, "asyncio.Future[Verdict]"]


class RedisAway(Exception):
    """Redis does not answer, or not as it should."""


class RedisLimiter:
    """The hits that wait in the same moment go in one call of the script, which takes one after the other.

    While a call is under way, the next one fills. One hit alone costs 60 µs of CPU, one of 32 together 6
    (`benchmarks/limiter.py`).
    """

    def __init__(self, redis: "Redis", strategy: Strategy):
        self._wire = RedisWire(redis)
        self._strategy = strategy
        self._prefix = f"{PREFIX}{strategy}:"
        self._waiting: list[Waiting] = []
        self._busy = False
        self._connecting: asyncio.Task[None] | None = None

    async def charge(self, hit: Hit) -> Verdict:
        """Raises RedisAway."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Verdict] = loop.create_future()
        self._waiting.append((hit, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._send)
        return await future

    def _send(self) -> None:
        if not self._waiting:
            self._busy = False
        elif self._wire.connected:
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            arguments = self._arguments([hit for hit, _ in batch])
            self._wire.ask([("EVALSHA", _SHA, *arguments)], partial(self._answered, batch))
        else:
            # In a context of its own: it is no part of the request that meets the closed connection.
            self._connecting = asyncio.create_task(self._connect(), context=Context())

    async def _connect(self) -> None:
        try:
            await self._wire.connect()
        except Exception as error:
            self._fail([], error)
        self._send()

    def _arguments(self, hits: Sequence[Hit]) -> list[str]:
        prefix = self._prefix
        keys = [prefix + key for hit in hits for key in hit.keys]
        return [str(len(keys)), *keys, self._strategy, *(hit.plan.arguments for hit in hits)]

    def _answered(self, batch: Sequence[Waiting], outcome: list[Reply] | Exception) -> None:
        reply = outcome if isinstance(outcome, Exception) else outcome[0]
        if isinstance(reply, RedisError) and str(reply).startswith("NOSCRIPT"):
            arguments = self._arguments([hit for hit, _ in batch])
            self._wire.ask([("EVAL", _SCRIPT, *arguments)], partial(self._answered, batch))
            return
        try:
            self._tell(batch, reply)
        except Exception as error:
            self._fail(batch, error)
        self._send()

    def _tell(self, batch: Sequence[Waiting], reply: Reply | Exception) -> None:
        if isinstance(reply, Exception):
            raise reply
        numbers = iter([int(number) for number in cast(bytes, reply).split()])
        states = [WindowState(*triple) for triple in zip(numbers, numbers, numbers, strict=True)]
        if len(states) != sum(len(hit.keys) for hit, _ in batch):
            raise RedisError(f"{len(states)} windows were answered")
        start = 0
        for hit, future in batch:
            end = start + len(hit.keys)
            if not future.done():
                future.set_result(Verdict(states[start:end]))
            start = end

    def _fail(self, batch: Sequence[Waiting], error: Exception) -> None:
        """Also for whoever waits behind: they have waited as long."""
        late, self._waiting = self._waiting, []
        for _, future in (*batch, *late):
            if not future.done():
                future.set_exception(RedisAway(f"{type(error).__name__}: {error}"))

    async def probe(self) -> None:
        """Writes as a request does: a server that only reads is no use. Raises RedisAway."""
        await self.charge(_PROBE)

    def close(self) -> None:
        self._wire.close()
