"""Rate limits, counted in Redis by its clock, for all nodes together."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextvars import Context
from importlib.resources import files
from typing import TYPE_CHECKING

from ai_agent.domain.rate_limits import Charge, Hit, Plan, Strategy, Verdict, Window, WindowState
from ai_agent.storage.redis import RedisError, RedisWire

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
    """The hits that wait in the same moment go in one call of the script, which takes one after the other: a call costs
    30 µs of CPU, a hit more in it 3 µs. While a call is under way, the next one fills.
    """

    def __init__(self, redis: "Redis", strategy: Strategy):
        self._wire = RedisWire(redis)
        self._strategy = strategy
        self._prefix = f"{PREFIX}{strategy}:"
        self._waiting: list[Waiting] = []
        self._sender: asyncio.Task[None] | None = None

    async def charge(self, hit: Hit) -> Verdict:
        """Raises RedisAway."""
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((hit, future))
        if self._sender is None:
            # In a context of its own: it goes on for requests that come later.
            self._sender = asyncio.create_task(self._send(), context=Context())
        return await future

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                await self._send_batch(batch)
        finally:
            self._sender = None

    async def _send_batch(self, batch: Sequence[Waiting]) -> None:
        try:
            numbers = await self._call([hit for hit, _ in batch])
        except Exception as error:
            # Whoever waits behind this call has waited as long.
            late, self._waiting = self._waiting, []
            for _, future in (*batch, *late):
                if not future.done():
                    future.set_exception(RedisAway(f"{type(error).__name__}: {error}"))
            return
        states = [WindowState(*triple) for triple in zip(*[iter(numbers)] * 3, strict=True)]
        start = 0
        for hit, future in batch:
            end = start + len(hit.keys)
            if not future.done():
                future.set_result(Verdict(states[start:end]))
            start = end

    async def _call(self, hits: Sequence[Hit]) -> list[int]:
        prefix = self._prefix
        keys = [prefix + key for hit in hits for key in hit.keys]
        arguments = (str(len(keys)), *keys, self._strategy, *(hit.plan.arguments for hit in hits))
        try:
            answer = await self._wire.call("EVALSHA", _SHA, *arguments)
        except RedisError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            answer = await self._wire.call("EVAL", _SCRIPT, *arguments)
        numbers = [int(number) for number in answer.split()]
        if len(numbers) != 3 * len(keys):
            raise RedisError(f"{len(numbers)} numbers for {len(keys)} windows")
        return numbers

    async def probe(self) -> None:
        """Writes as a request does: a server that only reads is no use. Raises whatever is wrong."""
        await self._call([_PROBE])

    def close(self) -> None:
        self._wire.close()
