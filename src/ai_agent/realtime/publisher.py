"""Events of state changes: committed with the change in the outbox, then published to the log, in order.

What is for a user's queue goes there in the same way.

Nobody waits for that: behind the commit a task publishes what is new, of all channels together. A process that dies
between the two leaves rows; the relay of any other one publishes them. The log knows an event by its `eid`, so nothing
that is published twice is there twice. Source: the transactional outbox pattern.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import groupby, islice
from typing import Any

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.channels import queue_of, queued_for
from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.events import TERMINAL, EventType, NewEvent
from ai_agent.domain.fields import now, to_json
from ai_agent.domain.inbox import Envelope, Lane
from ai_agent.observability.realtime_metrics import publishing
from ai_agent.realtime.event_log import EventLog, Fenced
from ai_agent.realtime.inbox import Inbox
from ai_agent.storage import outbox
from ai_agent.storage.database import Connection, Database, Told
from ai_agent.storage.outbox import FORGETS, Unconfirmed
from ai_agent.storage.statements import Statement

RELAY_SECONDS = 1.0
"""How often the relay looks, and how old a row is that nobody else is just about to publish."""
RELAYED_AT_ONCE = 1000
CHANNELS_AT_ONCE = 100
GATHER_SECONDS = 0.002
"""What is committed meanwhile is published together; and who wrote it has its answer first."""
CONFIRM_SECONDS = 0.1
KEPT_SECONDS_AFTER_END = 86_400.0
"""How long the events of a run are kept when it has ended."""

Event = tuple[EventType, Any]
"""What happened, and its data."""

_SILENTLY = EventType.CANCELLED
_NOTHING = msgspec.Raw(b"null")

log = structlog.get_logger()


class Publisher:
    def __init__(self, database: Database, log: EventLog, inbox: Inbox):
        self._database = database
        self._log = log
        self._inbox = inbox
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._fresh: dict[str, None] = {}
        """Channels with rows that nobody has tried to publish, in order."""
        self._unpublished: dict[str, int] = {}
        """How often was written to a channel that is not published: what comes next there has to wait."""
        self._published: dict[str, dict[int, float]] = {}
        """The rows of a channel that the log has, until they are out of the outbox, with the monotonic clock's time."""
        self._ended: set[str] = set()

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(_again_and_again(self._publish_fresh, 0)),
            asyncio.create_task(_again_and_again(self._relay, RELAY_SECONDS)),
            asyncio.create_task(_again_and_again(self._confirm, CONFIRM_SECONDS)),
        ]

    async def close(self) -> None:
        if not self._tasks:
            return
        await cancel_and_wait(*self._tasks)
        with suppress(AIAgentError):  # Else another process publishes them, or finds them published already.
            await self._publish_all(list(self._unpublished))
            await self._confirm()

    def record(self, rows: Connection, channel: str, *events: Event, fence: int = 0) -> None:
        """Writes events in the caller's transaction; they are published when it has committed."""
        if events:
            rows.tell([Told(channel, NewEvent.of(kind, data), fence) for kind, data in events])
            rows.after_commit(partial(self._notice, channel))

    def forget(self, rows: Connection, channel: str, farewell: Event | None = None) -> None:
        """As `record`, of the channel's last word: nothing else of it is shown any more."""
        self.record(rows, channel, farewell or (_SILENTLY, None), fence=FORGETS)

    def queue(self, rows: Connection, user: str, lane: Lane, *events: Event) -> None:
        """Puts events into a user's queue, in the caller's transaction."""
        self.record(rows, queue_of(user), *[(kind, Envelope(lane, to_json(data))) for kind, data in events])

    def put(self, rows: Connection, channel: str, event: NewEvent) -> None:
        """As `record`, of an event that is made already."""
        rows.tell([Told(channel, event)])
        rows.after_commit(partial(self._notice, channel))

    async def write(self, statement: Statement[Any], channel: str, event: Event, **parameters: Any) -> None:
        """`record` with a transaction of one statement, in one round trip."""
        told = Told(channel, NewEvent.of(*event))
        await self._database.write(statement, told=told, then=partial(self._notice, channel), **parameters)

    async def _notice(self, channel: str) -> None:
        self._unpublished[channel] = self._unpublished.get(channel, 0) + 1
        self._fresh[channel] = None
        self._news.set()

    async def tell(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> None:
        """Appends what is in no outbox, behind all that was committed. Raises what `append` of a log does."""
        if channel in self._unpublished:
            await self.publish([channel])
        with publishing(len(events)):
            await self._log.append(channel, events, fence=fence)

    async def publish(self, channels: Collection[str]) -> None:
        """Brings the committed events of channels to the log. Raises what `append` of a log does, and a Reader."""
        if not channels:
            return
        written = {channel: self._unpublished.get(channel, 0) for channel in channels}
        new: dict[str, list[Unconfirmed]] = {channel: [] for channel in channels}
        known = [seq for name in channels for seq in self._published.get(name, ())]
        for row in await outbox.others(self._database.reader, channels, known):
            new[row.channel].append(row)
        await asyncio.gather(*[self._bring(name, rows, written[name]) for name, rows in new.items()])

    async def _bring(self, channel: str, rows: list[Unconfirmed], written: int) -> None:
        user = queued_for(channel)
        if user is None:
            await self._tell_all(channel, rows)
        elif rows:
            await self._inbox.take(user, rows)
        if self._unpublished.get(channel) == written:
            del self._unpublished[channel]

    async def _tell_all(self, channel: str, rows: list[Unconfirmed]) -> None:
        for fence, some in groupby(rows, lambda row: row.fence):
            await self._append(channel, [row.event for row in some], fence)
        if rows:
            # Twice at the same time? Then the other one was later, which does no harm.
            self._published.setdefault(channel, {}).update(dict.fromkeys([row.seq for row in rows], time.monotonic()))
        if any(row.type in TERMINAL for row in rows):
            self._ended.add(channel)

    async def _append(self, channel: str, events: list[NewEvent], fence: int) -> None:
        if fence == FORGETS:
            farewell = events[-1] if events[-1].data != _NOTHING else None
            await self._log.forget(channel, farewell)
            return
        try:
            with publishing(len(events)):
                await self._log.append(channel, events, fence=fence)
        except Fenced:
            # It was committed all the same: no late word of a worker that lost its run, only late to be published.
            with suppress(Fenced), publishing(len(events)):  # Of a channel that was forgotten nobody wants to know.
                await self._log.append(channel, events)

    async def _publish_fresh(self) -> None:
        await self._news.wait()
        await asyncio.sleep(GATHER_SECONDS)
        self._news.clear()
        fresh, self._fresh = self._fresh, {}
        await self._publish_all(fresh)

    async def _publish_all(self, channels: Iterable[str]) -> None:
        waiting = iter(channels)
        while some := list(islice(waiting, CHANNELS_AT_ONCE)):
            await self.publish(some)

    async def _confirm(self) -> None:
        """Takes out of the outbox what the log is sure to keep."""
        kept_until, ended = self._log.kept_until, list(self._ended)
        confirmed = {name: [seq for seq, at in of.items() if at <= kept_until] for name, of in self._published.items()}
        for channel in ended:
            await self._log.expire(channel, KEPT_SECONDS_AFTER_END)
        if seqs := [seq for some in confirmed.values() for seq in some]:
            await outbox.confirm(self._database, seqs)
        self._ended.difference_update(ended)
        for channel, some in confirmed.items():
            for seq in some:
                self._published[channel].pop(seq, None)
            if not self._published[channel]:
                del self._published[channel]

    async def _relay(self) -> None:
        """Publishes what could not be, and what others have left behind."""
        # Rows of whoever lives are there until the log is sure to keep them.
        unsure = time.monotonic() - self._log.kept_until
        before = now() - timedelta(seconds=RELAY_SECONDS + unsure)
        left = await outbox.left_behind(self._database.reader, before, RELAYED_AT_ONCE)
        await self._publish_all(dict.fromkeys([*left, *self._unpublished]))


async def _again_and_again(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except AIAgentError:
            log.warning("outbox_waits", exc_info=True)
        except Exception:
            log.exception("outbox_failed")
