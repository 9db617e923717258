"""What is told of an execution, for those who follow it: a stream, or a page of it.

The event log tells it. Where the log no longer can, because events are gone or the log itself is, the row does.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import UUID

from ai_agent.domain.channels import execution_channel
from ai_agent.domain.errors import NotFound
from ai_agent.domain.events import TERMINAL, EventPage, EventType
from ai_agent.domain.executions import FINAL, ExecutionStatus
from ai_agent.domain.identity import Principal
from ai_agent.realtime.event_log import EventLog, Position, Subscription
from ai_agent.realtime.follow import Batch, Gone, Readable, following
from ai_agent.services.execution_endings import ending, is_late
from ai_agent.services.execution_reader import ExecutionReader, oldest
from ai_agent.storage import executions
from ai_agent.storage.database import Database

LOOK_SECONDS = 1.0
"""How often a reader to whom nothing is told looks at the row."""

_ASKING = frozenset({EventType.APPROVAL_REQUESTED, EventType.TOOL_STARTED})
"""A run that tells these may be about to wait for somebody."""


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
        return await self.told(execution_id, since, limit)

    async def told(self, execution_id: UUID, since: Position, limit: int) -> EventPage:
        """The same, whoever asks."""
        name = execution_channel(execution_id)
        page = await self._log.read(name, since, limit + 1)
        lost = page.gone or page.after != since.seq
        if lost or not page.events:
            row = await executions.standing(self._database.reader, execution_id)
            if row is None or is_late(row) or (lost and row.finished_at is not None and not page.events):
                end = await ending(self._database.reader, self._log, name, row, None if lost else since.seq)
                return EventPage(items=end.events, has_more=False)
        if page.gone:
            page = await self._log.read(name, await oldest(self._log, name, page), limit + 1)
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
            reader = Reader(ExecutionReader(self._database, self._log, execution_id, follower))
            if self.draining:
                reader.leave()
            with self._listed(reader.leave):
                yield reader

    @contextlib.asynccontextmanager
    async def reading(
        self, execution_id: UUID, since: Position, reads: Readable, news: Callable[[], None]
    ) -> AsyncIterator[ExecutionReader]:
        """For one who reads many channels at once; `reads` and `news` as of `following`."""
        async with following(self._log, execution_channel(execution_id), since, reads=reads, news=news) as follower:
            yield ExecutionReader(self._database, self._log, execution_id, follower)

    @contextlib.contextmanager
    def _listed(self, let_go: Callable[[], None]) -> Iterator[None]:
        self._open.add(let_go)
        try:
            yield
        finally:
            self._open.discard(let_go)


class Reader:
    """One who waits for what an execution tells."""

    def __init__(self, told: ExecutionReader):
        self._told = told
        self._left = False

    @property
    def ended(self) -> bool:
        """Whether the end of the run was told."""
        return self._told.ended

    def leave(self) -> None:
        """Lets a `next` that waits, and all after it, answer None."""
        self._left = True
        self._told.follower.wake()

    async def next(self) -> Batch | None:
        """What comes next, in order; nothing for a while; or None when all was told, or the reader has left."""
        waited = False
        while not (self._left or self.ended):
            batch = self._told.take()
            if batch is None:
                await self._fill()
            elif batch.events or batch.rewound_to is not None or waited:
                return batch
            else:
                await self._told.follower.wait(LOOK_SECONDS)
                waited = True
                self._told.look()
        return None

    async def _fill(self) -> None:
        try:
            await self._told.fill()
        except Gone as gone:
            await self._told.recover(gone.page)


async def _told_or_time(subscription: Subscription, wakes: frozenset[EventType]) -> None:
    """Waits for an event of these types; not longer than a second, and not when events were dropped."""
    deadline = time.monotonic() + LOOK_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        heard = await subscription.next(left)
        if not (heard and heard.events) or any(event.type in wakes for event in heard.events):
            return
