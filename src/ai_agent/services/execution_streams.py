"""What is told of an execution, for those who follow it: a stream, or a page of it.

The event log tells it. Where the log no longer can, because events are gone or the log itself is, the row does.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import UUID

import structlog

from ai_agent.domain.channels import execution_channel
from ai_agent.domain.errors import AIAgentError, NotFound
from ai_agent.domain.events import TERMINAL, EventPage, EventType
from ai_agent.domain.executions import FINAL, ExecutionStatus
from ai_agent.domain.identity import Principal
from ai_agent.realtime.event_log import EventLog, LogPage, Position, Subscription
from ai_agent.realtime.follow import PAGE_EVENTS, Batch, Follower, Gone, following
from ai_agent.services.execution_endings import ending, is_late
from ai_agent.storage import executions
from ai_agent.storage.database import Database
from ai_agent.storage.executions import Standing

LOOK_SECONDS = 1.0
"""How often a reader to whom nothing is told looks at the row."""

_ASKING = frozenset({EventType.APPROVAL_REQUESTED, EventType.TOOL_STARTED})
"""A run that tells these may be about to wait for somebody."""

log = structlog.get_logger()


class ExecutionStreams:
    def __init__(self, database: Database, log: EventLog):
        self._database = database
        self._log = log
        self._open: set[Callable[[], None]] = set()
        self.draining = False

    def drain(self) -> None:
        """Lets all who follow go: the process stops, and they resume at another one."""
        self.draining = True
        for let_go in self._open:
            let_go()

    async def check(self, principal: Principal, execution_id: UUID) -> None:
        """Raises NotFound when the execution is not the owner's."""
        if await executions.epoch(self._database.reader, principal.subject, execution_id) is None:
            raise NotFound("Execution not found")

    async def page(self, principal: Principal, execution_id: UUID, since: Position, limit: int) -> EventPage:
        """Events behind a position, as a stream tells them. Raises NotFound."""
        await self.check(principal, execution_id)
        name = execution_channel(execution_id)
        page = await self._log.read(name, since, limit + 1)
        lost = page.gone or page.after != since.seq
        if lost or not page.events:
            row = await executions.standing(self._database.reader, execution_id)
            if row is None or is_late(row) or (lost and row.finished_at is not None and not page.events):
                end = await ending(self._database.reader, self._log, name, row, None if lost else since.seq)
                return EventPage(items=end.events, has_more=False)
        if page.gone:
            page = await self._log.read(name, await _oldest(self._log, name, page), limit + 1)
        return EventPage(items=page.events[:limit], has_more=len(page.events) > limit)

    async def ended(self, execution_id: UUID, *, or_waits: bool = False) -> bool:
        """Waits for the end of a run, or until it waits for somebody; False when the process stops first."""
        wakes = TERMINAL | (_ASKING if or_waits else frozenset())
        async with self._log.subscribe(execution_channel(execution_id)) as subscription:
            with self._listed(subscription.wake):
                while True:
                    status = await executions.status(self._database.reader, execution_id)
                    if status is None or status in FINAL or (or_waits and status is ExecutionStatus.WAITING):
                        return True
                    if self.draining:
                        return False
                    await _told_or_time(subscription, wakes)

    @contextlib.asynccontextmanager
    async def follow(self, execution_id: UUID, since: Position) -> AsyncIterator["Reader"]:
        """One who is told what is behind a position, stored and to come, until the process stops."""
        async with following(self._log, execution_channel(execution_id), since) as follower:
            reader = Reader(self._database, self._log, execution_id, follower)
            if self.draining:
                reader.leave()
            with self._listed(reader.leave):
                yield reader

    @contextlib.contextmanager
    def _listed(self, let_go: Callable[[], None]) -> Iterator[None]:
        self._open.add(let_go)
        try:
            yield
        finally:
            self._open.discard(let_go)


class Reader:
    """One who follows an execution: told by the log, and when the log is silent, by the row."""

    def __init__(self, database: Database, log: EventLog, execution_id: UUID, follower: Follower):
        self._database = database
        self._log = log
        self._id = execution_id
        self._follower = follower
        self._seconds = 0.0
        self._over = False
        self._left = False
        self.ended = False
        """Whether the end of the run was told."""

    def leave(self) -> None:
        """Lets a `next` that waits, and all after it, answer None."""
        self._left = True
        self._follower.wake()

    async def next(self) -> Batch | None:
        """What comes next, in order; nothing for a while; or None when all was told, or the reader has left."""
        if self._left or self.ended:
            return None
        batch = await self._next()
        if batch is not None and batch.events:
            self.ended = batch.events[-1].type in TERMINAL
        return batch

    async def _next(self) -> Batch | None:
        # A stream whose log is silent from the start shall not wait to hear why.
        seconds, self._seconds = self._seconds, LOOK_SECONDS
        try:
            batch = await self._follower.next(seconds)
        except Gone as gone:
            return await self._resumed(gone.page)
        if batch.events:
            return batch
        if batch.rewound_to is not None:
            return await self._rewound(batch)
        return None if self._left else await self._looked(batch)

    async def _rewound(self, silent: Batch) -> Batch:
        """The reader was beyond what the log has: of a run that is over it may have missed the end."""
        row = await executions.standing(self._database.reader, self._id)
        return silent if row is not None and row.finished_at is None else await self._ending(row, None)

    async def _resumed(self, page: LogPage) -> Batch:
        """From a position that is gone: to the end, or on from the oldest place where a reader can begin."""
        row = await executions.standing(self._database.reader, self._id)
        if row is None or row.finished_at is not None:
            return await self._ending(row, None)
        oldest = await _oldest(self._log, self._follower.channel, page)
        self._follower.go_to(oldest)
        self._seconds = 0.0
        return Batch(page.epoch, [])

    async def _looked(self, silent: Batch) -> Batch | None:
        """While nothing comes: the log has a second to tell of an end that the row knows."""
        try:
            row = await executions.standing(self._database.reader, self._id)
        except AIAgentError:
            log.warning("stream_cannot_look", execution_id=str(self._id), exc_info=True)
            return silent
        if row is not None and not (self._over or is_late(row)):
            self._over = row.finished_at is not None
            return silent
        batch = await self._ending(row, self._follower.position.seq)
        return batch if batch.events else None

    async def _ending(self, row: Standing | None, told: int | None) -> Batch:
        return await ending(self._database.reader, self._log, self._follower.channel, row, told)


async def _oldest(log: EventLog, name: str, page: LogPage) -> Position:
    """The position before the first snapshot that is kept, else before the first event."""
    first = at = Position("", page.floor - 1)
    while first.seq and (events := (await log.read(name, at, PAGE_EVENTS)).events):
        for event in events:
            if event.type == EventType.SNAPSHOT:
                return Position("", event.seq - 1)
        at = Position("", events[-1].seq)
    return first


async def _told_or_time(subscription: Subscription, wakes: frozenset[EventType]) -> None:
    """Waits for an event of these types; not longer than a second, and not when events were dropped."""
    deadline = time.monotonic() + LOOK_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        heard = await subscription.next(left)
        if not (heard and heard.events) or any(event.type in wakes for event in heard.events):
            return
