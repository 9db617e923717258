"""Who takes events out of the channels plugin: told when some are missing, and never waited for."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import structlog
from litestar.channels import ChannelsPlugin
from litestar.channels.subscriber import BacklogStrategy, EventCallback, Subscriber

from ai_agent.observability.metrics import APPLICATION_EVENTS_LOST

JOIN_SECONDS = 5.0
STOP_SECONDS = 2.0

log = structlog.get_logger()


class EventsMissed(Exception):
    """Here events are missing, because too many waited or the log has lost them. What comes behind is still there."""


class _Gap(bytes):
    """Stands in the queue where events are missing."""


class RealtimeSubscriber(Subscriber):
    """Litestar's subscriber; a bounded one that is too slow is told so, in the place where events are missing."""

    def __init__(
        self,
        plugin: ChannelsPlugin,
        max_backlog: int | None = None,
        backlog_strategy: BacklogStrategy = "backoff",
    ) -> None:
        super().__init__(plugin, None, backlog_strategy)
        self._max_backlog = max_backlog
        self._missing = False

    async def put(self, item: bytes | None) -> None:
        """As `put_nowait`: who does not take anything any more must hold up nobody."""
        self.put_nowait(item)

    def put_nowait(self, item: bytes | None) -> bool:
        """Whether there was room; there always is for the end."""
        if item is not None and self._max_backlog and self.qsize >= self._max_backlog:
            self.miss("slow_subscriber")
            return False
        self._missing = False
        return super().put_nowait(item)

    def miss(self, reason: str) -> None:
        """Events are missing behind those that are queued: the reader will meet EventsMissed."""
        if not self._missing:
            self._missing = True
            APPLICATION_EVENTS_LOST.labels(reason).inc()
            super().put_nowait(_Gap())

    async def iter_events(self) -> AsyncGenerator[bytes, None]:
        """Raises EventsMissed where events are missing; the next call goes on behind them."""
        while (item := await self._queue.get()) is not None:
            if isinstance(item, _Gap):
                raise EventsMissed
            yield item

    @contextlib.asynccontextmanager
    async def run_in_background(self, on_event: EventCallback, join: bool = True) -> AsyncGenerator[None, None]:
        """Hands events to `on_event` in the block. What `on_event` or `iter_events` raise ends the block, too.

        With `join`, what is queued when the block ends is handed over first, for five seconds at most.
        """
        if self._task is not None:
            raise RuntimeError("The subscriber is running already")
        self._task = task = asyncio.create_task(self._worker(on_event))
        try:
            async with _ended_with(task):
                yield
        except BaseException:
            await self.stop()
            raise
        await self.stop(join=join)

    async def stop(self, join: bool = False) -> None:
        """Ends the task that hands events over. Raises what it failed with."""
        task, self._task = self._task, None
        if task is None:
            return
        if join and not task.done():
            self.put_nowait(None)
            await asyncio.wait({task}, timeout=JOIN_SECONDS)
        task.cancel()
        # A task that swallows its cancel would be waited for for ever, if it was awaited itself.
        if not (await asyncio.wait({task}, timeout=STOP_SECONDS))[0]:
            log.error("subscriber_does_not_stop", subscriber=repr(self))
        elif not task.cancelled():
            task.result()


@contextlib.asynccontextmanager
async def _ended_with(task: "asyncio.Task[None]") -> AsyncIterator[None]:
    """A block that ends with TimeoutError when a task fails."""

    def end(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            block.reschedule(0)

    async with asyncio.timeout(None) as block:
        task.add_done_callback(end)
        try:
            yield
        finally:
            task.remove_done_callback(end)
