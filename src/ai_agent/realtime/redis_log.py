"""The event log in Redis, which the nodes of a deployment share.

A script, `event_log.lua`, appends, reads and tells, so that number, event and news are one. What each node has appended
last it says again when another server, or the same one in another life, may have lost it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, cast

import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.channels import Retention, retention
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import NewEvent
from ai_agent.realtime.event_log import FORGOTTEN, Fenced, LogPage, Position, Subscribers, Subscription
from ai_agent.realtime.redis_appends import RedisAppends, answer
from ai_agent.realtime.redis_news import RedisNews
from ai_agent.realtime.redis_script import SCRIPT, Keys, frames, heard, rest
from ai_agent.realtime.unconfirmed import Group
from ai_agent.storage.redis_pipeline import RedisPipeline

if TYPE_CHECKING:
    from redis.asyncio import Redis

WATCH_SECONDS = 0.5
"""So often it is looked whether the server lives, while it may lose what was appended here."""

log = structlog.get_logger()


class RedisLog:
    """`name` tells the deployments apart that share a Redis."""

    def __init__(self, redis: "Redis", name: str, retained: Callable[[str], Retention] = retention):
        self._keys = Keys(name)
        self._appends = RedisAppends(redis, self._keys, retained)
        # Apart from the appends, which shall not wait until large pages are through.
        self._reads = RedisPipeline(redis, SCRIPT)
        self._subscribers = Subscribers()
        self._news = RedisNews(redis, self._hear, self._subscribers.miss)
        self._watch: asyncio.Task[None] | None = None

    @property
    def kept_until(self) -> float:
        return self._appends.unconfirmed.kept_until

    async def open(self) -> None:
        self._news.start()
        self._watch = asyncio.create_task(self._watch_for_ever())

    async def close(self) -> None:
        await cancel_and_wait(self._watch)
        await self._news.close()
        self._appends.close()
        self._reads.close()

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        return await self._appends.append(channel, _group(fence, *events))

    async def read(self, channel: str, since: Position, limit: int) -> LogPage:
        arguments = self._keys.call(channel, "read", since.epoch, since.seq, limit)
        reply = cast(
            "tuple[bytes, int, int, int, list[tuple[bytes, list[bytes]]]]", await answer(self._reads, arguments)
        )
        epoch, top, floor, after, rows = reply
        return LogPage(epoch.decode(), top, floor, after if after >= 0 else None, frames(channel, rows))

    @contextlib.asynccontextmanager
    async def subscribe(self, channel: str, news: Callable[[], None] | None = None) -> AsyncIterator[Subscription]:
        subscription = self._subscribers.add(channel, news)
        try:
            async with self._news.listening(self._keys.published(channel)):
                yield subscription
        finally:
            self._subscribers.remove(channel, subscription)

    def _hear(self, published: str, payload: bytes) -> None:
        self._subscribers.deliver(self._keys.channel(published), heard(payload))

    async def expire(self, channel: str, seconds: float) -> None:
        await self._appends.ask(channel, "expire", int(seconds * 1000))

    async def forget(self, channel: str, farewell: NewEvent | None = None) -> None:
        with contextlib.suppress(Fenced):  # It is forgotten already.
            await self._appends.append(channel, _group(FORGOTTEN, *([farewell] if farewell else [])))

    async def forget_expired(self) -> int:
        """Redis does it by itself."""
        return 0

    async def _watch_for_ever(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._appends.unconfirmed:
                try:
                    await self._appends.ask("", "read", "", 0, 0)
                except ServiceUnavailable as error:
                    log.warning("event_log_away", reason=str(error.__cause__))


def _group(fence: int, *events: NewEvent) -> Group:
    return Group(fence, [(event.eid.bytes, rest(event)) for event in events])
