"""Events of state changes: committed with the change in the outbox, then published to the log, in order.

A process that dies between the two leaves rows; the relay of any other one publishes them. The log knows an event by
its `eid`, so nothing that is published twice is there twice. What is published is taken out of the outbox behind the
request, many channels at a time. Source: the transactional outbox pattern.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import groupby, takewhile
from typing import Any

import structlog

from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.events import TERMINAL, EventType, NewEvent
from ai_agent.domain.fields import now
from ai_agent.observability.realtime_metrics import publishing
from ai_agent.realtime.event_log import EventLog, Fenced
from ai_agent.storage import outbox
from ai_agent.storage.database import Connection, Database

RELAY_SECONDS = 1.0
"""How often the relay looks, and how old a row is that nobody else is just about to publish."""
RELAYED_AT_ONCE = 100
CONFIRM_SECONDS = 0.1
KEPT_SECONDS_AFTER_END = 86_400.0
"""How long the events of a run are kept when it has ended."""

log = structlog.get_logger()


class Publisher:
    def __init__(self, database: Database, log: EventLog):
        self._database = database
        self._log = log
        self._tasks: list[asyncio.Task[None]] = []
        self._published: dict[str, int] = {}
        """The newest row of a channel that the log has, until it is out of the outbox."""
        self._sent: deque[tuple[float, str, int]] = deque()
        """When it was published, to which channel, and up to which row."""
        self._ended: set[str] = set()
        self._unpublished: set[str] = set()
        """Channels with rows that are not published yet: what comes next has to wait for them."""

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(_again_and_again(self._relay, RELAY_SECONDS)),
            asyncio.create_task(_again_and_again(self._confirm, CONFIRM_SECONDS)),
        ]

    async def close(self) -> None:
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        with suppress(AIAgentError):  # Else another process finds them published already.
            await self._confirm()

    async def record(self, rows: Connection, channel: str, *events: tuple[EventType, Any], fence: int = 0) -> None:
        """Writes events in the caller's transaction; they are published when it has committed."""
        if not events:
            return
        await outbox.add(rows, channel, [NewEvent.of(kind, data) for kind, data in events], fence)
        rows.after_commit(partial(self.publish, channel))

    async def publish(self, channel: str) -> None:
        """Brings the channel's committed events to the log. What fails is left to the relay."""
        self._unpublished.add(channel)
        try:
            await self._publish(channel)
        except AIAgentError:
            log.warning("publish_failed", channel=channel, exc_info=True)

    async def tell(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> None:
        """Appends what is in no outbox, behind all that was committed. Raises what `append` of a log does."""
        if channel in self._unpublished:
            await self._publish(channel)
        with publishing(len(events)):
            await self._log.append(channel, events, fence=fence)

    async def _publish(self, channel: str) -> None:
        published = self._published.get(channel, 0)
        new = [row for row in await outbox.of_channel(self._database.reader, channel) if row.seq > published]
        for fence, some in groupby(new, lambda row: row.fence):
            await self._append(channel, [row.event for row in some], fence)
        self._unpublished.discard(channel)
        if new:
            self._published[channel] = max(new[-1].seq, self._published.get(channel, 0))
            self._sent.append((time.monotonic(), channel, self._published[channel]))
        if any(row.type in TERMINAL for row in new):
            self._ended.add(channel)

    async def _append(self, channel: str, events: list[NewEvent], fence: int) -> None:
        try:
            with publishing(len(events)):
                await self._log.append(channel, events, fence=fence)
        except Fenced:
            # It was committed all the same: no late word of a worker that lost its run, only late to be published.
            with suppress(Fenced), publishing(len(events)):  # Of a channel that was forgotten nobody wants to know.
                await self._log.append(channel, events)

    async def _confirm(self) -> None:
        """Takes out of the outbox what the log is sure to keep."""
        kept_until, ended = self._log.kept_until, list(self._ended)
        sent = list(takewhile(lambda one: one[0] <= kept_until, self._sent))
        confirmed = {channel: seq for _, channel, seq in sent}
        for channel in ended:
            await self._log.expire(channel, KEPT_SECONDS_AFTER_END)
        if confirmed:
            await outbox.confirm(self._database, confirmed)
        self._ended.difference_update(ended)
        for _ in sent:
            self._sent.popleft()
        for channel, seq in confirmed.items():
            if self._published[channel] == seq:
                del self._published[channel]

    async def _relay(self) -> None:
        """Publishes what others have left behind."""
        # Rows of whoever lives are there until the log is sure to keep them.
        unsure = time.monotonic() - self._log.kept_until
        before = now() - timedelta(seconds=RELAY_SECONDS + unsure)
        left = await outbox.left_behind(self._database.reader, before, RELAYED_AT_ONCE)
        for channel in dict.fromkeys([*self._unpublished, *left]):
            await self._publish(channel)


async def _again_and_again(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except AIAgentError:
            log.warning("outbox_waits", exc_info=True)
        except Exception:
            log.exception("outbox_failed")
