"""Litestar's channels plugin over the event log, for application code that embeds the server."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import Any
from weakref import WeakValueDictionary

import structlog
from litestar.channels import ChannelsPlugin
from litestar.channels.plugin import ChannelsException
from litestar.channels.subscriber import Subscriber
from litestar.types import LitestarEncodableType, TypeEncodersMap

from ai_agent.domain.channels import parse
from ai_agent.realtime.log_backend import LogBackend
from ai_agent.realtime.outgoing import Outgoing
from ai_agent.realtime.subscriber import RealtimeSubscriber

YIELD_EVERY = 256
"""Subscribers that are served before others in this process have their turn."""
STEP_SECONDS = 3.0
"""The longest that each step of a shutdown may take."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0

log = structlog.get_logger()


class RealtimePlugin(ChannelsPlugin):
    """Publishes and subscribes as Litestar's own does, and goes on after errors of the backend.

    Its workers are started again when they fail, and what they could not publish is published then, in order. Channels
    are freed with their last subscriber. A subscriber that misses events is told. No step of a shutdown hangs.

    There are no handlers and no history of its own: sockets have a protocol of theirs, and the log is the history. What
    `subscribe` adds with `history` is read when it hears already, so an event of that moment may come twice.
    """

    def __init__(
        self,
        backend: LogBackend,
        *,
        channels: Iterable[str] = (),
        arbitrary_channels_allowed: bool = False,
        subscriber_max_backlog: int | None = None,
        subscriber_class: type[RealtimeSubscriber] = RealtimeSubscriber,
        type_encoders: "TypeEncodersMap | None" = None,
    ) -> None:
        """Raises ValueError when a channel has no name of `domain.channels`."""
        self._declared = frozenset(channels)
        for channel in self._declared:
            parse(channel)
        super().__init__(
            backend,
            channels=self._declared,
            arbitrary_channels_allowed=arbitrary_channels_allowed,
            subscriber_max_backlog=subscriber_max_backlog,
            subscriber_class=subscriber_class,
            type_encoders=type_encoders,
        )
        self._log_backend = backend
        backend.on_gone = self._tell_gone
        self._channels = {}
        self._channels_of: dict[Subscriber, set[str]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._releases: set[asyncio.Task[None]] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._outgoing: Outgoing | None = None

    def publish(self, data: LitestarEncodableType, channels: str | Iterable[str]) -> None:
        """Has data published soon, after what was given here before. It is tried again for minutes if it has to be.

        Raises ValueError for what can never be published, ServiceUnavailable when too much waits already, RuntimeError
        outside the application's lifespan.
        """
        if self._outgoing is None:
            raise RuntimeError("The plugin is not started: publish inside the application's lifespan")
        self._outgoing.put(self._log_backend.messages(self.encode_data(data), _names(channels)))

    async def subscribe(self, channels: str | Iterable[str], history: int | None = None) -> Subscriber:
        """One who gets whatever is published after this; with `history` also so many events of each channel before.

        Raises ChannelsException, ValueError for a bad name, ServiceUnavailable; then nothing is subscribed to.
        """
        names = _names(channels)
        if unknown := [name for name in names if not self._is_allowed(name)]:
            raise ChannelsException(f"Unknown channels: {', '.join(unknown)}")
        subscriber = self._subscriber_class(plugin=self, max_backlog=self._max_backlog)
        try:
            for name in names:
                await self._join(subscriber, name)
            if history:
                await self.put_subscriber_history(subscriber, names, history)
        except BaseException:
            await self.unsubscribe(subscriber)
            raise
        return subscriber

    async def unsubscribe(self, subscriber: Subscriber, channels: str | Iterable[str] | None = None) -> None:
        """Takes a subscriber out of channels, or of all; after the last one its iteration and its task end."""
        of_it = self._channels_of.get(subscriber, set())
        leaving = set(of_it) if channels is None else of_it & set(_names(channels))
        freed = [name for name in leaving if self._leave(subscriber, name)]
        release = self._released(freed)
        if leaving and not of_it:
            del self._channels_of[subscriber]
            await _end(subscriber)
        # Who unsubscribes because he is cancelled will not wait, and all the same the channels are to be freed.
        await asyncio.shield(release)

    @contextlib.asynccontextmanager
    async def start_subscription(
        self, channels: str | Iterable[str], history: int | None = None
    ) -> AsyncGenerator[Subscriber, None]:
        """A subscriber for the block."""
        subscriber = await self.subscribe(channels, history)
        try:
            yield subscriber
        finally:
            await self.unsubscribe(subscriber)

    def _is_allowed(self, channel: str) -> bool:
        return self._arbitrary_channels_allowed or channel in self._declared

    def _lock(self, channel: str) -> asyncio.Lock:
        return self._locks.setdefault(channel, asyncio.Lock())

    async def _join(self, subscriber: Subscriber, channel: str) -> None:
        # The second of two who come at once waits for the first one's subscription, which may fail yet.
        async with self._lock(channel):
            await self._backend.subscribe([channel])
            self._channels.setdefault(channel, set()).add(subscriber)
            self._channels_of.setdefault(subscriber, set()).add(channel)

    def _leave(self, subscriber: Subscriber, channel: str) -> bool:
        """Whether it was the last one of the channel."""
        self._channels_of[subscriber].discard(channel)
        self._channels[channel].discard(subscriber)
        if self._channels[channel]:
            return False
        del self._channels[channel]
        return True

    def _released(self, channels: list[str]) -> "asyncio.Task[None]":
        release = asyncio.create_task(self._release(channels))
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)
        return release

    async def _release(self, channels: list[str]) -> None:
        for channel in channels:
            async with self._lock(channel):
                if channel in self._channels:
                    continue
                try:
                    await self._backend.unsubscribe([channel])
                except Exception:
                    log.exception("channel_not_released", channel=channel)

    def _tell_gone(self, channel: str) -> None:
        for subscriber in self._channels.get(channel, ()):
            if isinstance(subscriber, RealtimeSubscriber):
                subscriber.miss("gone")

    async def _sub_worker(self) -> None:
        served = 0
        async with contextlib.aclosing(self._backend.stream_events()) as events:
            async for channel, payload in events:
                for subscriber in tuple(self._channels.get(channel, ())):
                    try:
                        subscriber.put_nowait(payload)
                    except Exception:  # A class of the application's: the others get theirs.
                        log.exception("subscriber_failed", channel=channel)
                    served += 1
                    if served % YIELD_EVERY == 0:
                        await asyncio.sleep(0)

    async def _on_startup(self) -> None:
        await self._backend.on_startup()
        self._outgoing = Outgoing(self._log_backend.log)
        workers = {"publishing": self._outgoing.run, "subscribing": self._sub_worker}
        self._workers = [asyncio.create_task(_again_and_again(name, work)) for name, work in workers.items()]

    async def _on_shutdown(self) -> None:
        outgoing, self._outgoing = self._outgoing, None
        if outgoing is None:
            return
        await _step("publish", outgoing.sent())
        await _step("end subscribers", self._end_subscribers())
        for worker in self._workers:
            worker.cancel()
        await _step("stop workers", asyncio.wait(self._workers))
        outgoing.give_up()
        await _step("release channels", self._log_backend.on_shutdown())

    async def _end_subscribers(self) -> None:
        subscribers = list(self._channels_of)
        self._channels.clear()
        self._channels_of.clear()
        for result in await asyncio.gather(*map(_end, subscribers), return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("subscriber_failed", exc_info=result)


def _names(channels: str | Iterable[str]) -> list[str]:
    return [channels] if isinstance(channels, str) else list(channels)


async def _end(subscriber: Subscriber) -> None:
    await subscriber.put(None)
    await subscriber.stop()


async def _again_and_again(name: str, work: Callable[[], Awaitable[None]]) -> None:
    pause = FIRST_PAUSE
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await work()
        except Exception:
            log.exception("channels_worker_failed", worker=name)
        if asyncio.get_running_loop().time() - began > 2 * LONGEST_PAUSE:
            pause = FIRST_PAUSE
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _step(name: str, work: Coroutine[Any, Any, object]) -> None:
    """Work that is left alone after a time, even when it does not let itself be cancelled."""
    task = asyncio.create_task(work)
    if not (await asyncio.wait({task}, timeout=STEP_SECONDS))[0]:
        task.cancel()
        log.error("channels_shutdown_step_hangs", step=name)
    elif error := task.exception():
        log.error("channels_shutdown_step_failed", step=name, exc_info=error)
