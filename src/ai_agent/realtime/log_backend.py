"""A backend of Litestar's channels plugin over the event log."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import NamedTuple

import structlog
from litestar.channels.backends.base import ChannelsBackend

from ai_agent.domain.channels import parse
from ai_agent.domain.events import EventFrame
from ai_agent.realtime.application_events import application_event, payload_of
from ai_agent.realtime.event_log import EventLog, Position
from ai_agent.realtime.follow import CHECK_SECONDS, PAGE_EVENTS, Follower, Gone, following
from ai_agent.realtime.outgoing import Message

log = structlog.get_logger()

_NOW = Position("", 2**53 - 1)
"""Beyond the top of any channel: a reader is put to the top."""


class _Followed(NamedTuple):
    follower: Follower
    subscription: contextlib.AsyncExitStack


class LogBackend(ChannelsBackend):
    """Messages are events of type `application.event`, so sockets and streams get them, too.

    Of a channel that is subscribed to, all events come: of messages their bytes, of the server's own events the frame
    as JSON. What was not heard is read from the log, so within its retention nothing is missing. Channels are those of
    `domain.channels`, case and all; whose channel somebody subscribes to is for the application to check.
    """

    def __init__(self, log: EventLog):
        self.log = log
        self.on_gone: Callable[[str], None] = _told_nobody
        """Called with a channel when events of it were gone before they could be read."""
        self._followed: dict[str, _Followed] = {}
        self._changed: dict[str, None] = {}
        """Channels with something to take, in the order in which they are looked at."""
        self._something: asyncio.Event | None = None
        self._check_at = 0.0

    async def on_startup(self) -> None:
        self._something = asyncio.Event()

    async def on_shutdown(self) -> None:
        await self.unsubscribe(list(self._followed))
        self._something = None

    def messages(self, data: bytes, channels: Iterable[str]) -> list[Message]:
        """Raises ValueError for bad names, and for data that is not UTF-8 or too long."""
        for channel in (channels := list(channels)):
            parse(channel)
        return [Message(channel, application_event(data)) for channel in channels]

    async def publish(self, data: bytes, channels: Iterable[str]) -> None:
        """Raises ValueError as `messages` does, ServiceUnavailable, and Fenced for a channel that was forgotten."""
        self._check_started()
        await asyncio.gather(*(self.log.append(channel, [event]) for channel, event in self.messages(data, channels)))

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Whatever is published after this is heard. Raises ValueError for a bad name, ServiceUnavailable."""
        self._check_started()
        for channel in channels:
            if channel not in self._followed:
                self._followed[channel] = await self._following(channel)
                self._look_at(channel)

    async def _following(self, channel: str) -> _Followed:
        parse(channel)
        async with contextlib.AsyncExitStack() as stack:
            news = partial(self._look_at, channel)
            follower = await stack.enter_async_context(following(self.log, channel, _NOW, news=news))
            await follower.fill()
            follower.take()
            return _Followed(follower, stack.pop_all())

    async def unsubscribe(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if followed := self._followed.pop(channel, None):
                await followed.subscription.aclose()

    async def stream_events(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Raises ServiceUnavailable when the log cannot be read; another stream then goes on where this one was."""
        while True:
            channel = await self._next_changed()
            for event in await self._new(channel):
                yield channel, payload_of(event)

    async def get_history(self, channel: str, limit: int | None = None) -> list[bytes]:
        """The newest events that are kept, oldest first. Raises ServiceUnavailable."""
        page = await self.log.read(channel, _NOW, 0)
        at = max(page.floor - 1, page.top - limit if limit else 0)
        history: list[bytes] = []
        while at < page.top:
            events = (await self.log.read(channel, Position("", at), PAGE_EVENTS)).events
            if not events:
                break
            history += [payload_of(event) for event in events]
            at = events[-1].seq
        return history

    def _check_started(self) -> asyncio.Event:
        if self._something is None:
            raise RuntimeError("The backend is not started: subscribe and publish inside the application's lifespan")
        return self._something

    def _look_at(self, channel: str) -> None:
        self._changed[channel] = None
        if self._something is not None:
            self._something.set()

    async def _next_changed(self) -> str:
        something = self._check_started()
        self._look_at_all_in_time()
        while not self._changed:
            something.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await something.wait()
            self._look_at_all_in_time()
        channel = next(iter(self._changed))
        del self._changed[channel]
        return channel

    def _look_at_all_in_time(self) -> None:
        """Each reader has a time after which it reads although it heard nothing."""
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + CHECK_SECONDS
            self._changed |= dict.fromkeys(self._followed)

    async def _new(self, channel: str) -> list[EventFrame]:
        """What can be taken now; the channel is looked at again while there is more."""
        if channel not in self._followed:
            return []
        follower = self._followed[channel].follower
        was_live = follower.live
        batch = follower.take()
        if batch is None or not was_live:
            self._look_at(channel)
        if batch is None:
            await self._fill(follower)
        return batch.events if batch else []

    async def _fill(self, follower: Follower) -> None:
        try:
            await follower.fill()
        except Gone as gone:
            log.warning("application_events_gone", channel=follower.channel, floor=gone.page.floor)
            self.on_gone(follower.channel)
            follower.go_to(Position("", gone.page.floor - 1))


def _told_nobody(_: str) -> None: ...
