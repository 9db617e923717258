"""One who follows an execution: told by the log, and by the row what the log cannot tell any more.

The events may be gone, or the log itself: then the row knows how the run stands, and the run's message what it said.
"""

from uuid import UUID

import structlog

from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.events import TERMINAL, EventType
from ai_agent.realtime.event_log import EventLog, LogPage, Position
from ai_agent.realtime.follow import PAGE_EVENTS, Batch, Follower, Readable
from ai_agent.services.execution_endings import ending, is_late
from ai_agent.storage import executions
from ai_agent.storage.database import Database
from ai_agent.storage.executions import Standing

log = structlog.get_logger()


class ExecutionReader:
    """A Follower, and the row beside it: `take` and `fill` in the same way, until the run's end was taken."""

    def __init__(self, database: Database, log: EventLog, execution_id: UUID, follower: Follower):
        self._database = database
        self._log = log
        self._id = execution_id
        self.follower = follower
        self._told: Batch | None = None
        # One whose log is silent from the start shall not wait to hear why.
        self._looks = True
        self._over = False
        self.ended = False
        """Whether the end of the run was told."""

    @property
    def position(self) -> Position:
        return self.follower.position if self._told is None else _before(self._told)

    @property
    def live(self) -> bool:
        return self._told is None and (self.ended or (self.follower.live and not self._looks))

    def look(self) -> None:
        """Lets the row be asked, because the log is silent."""
        self._looks = True

    def check(self) -> None:
        """Lets log and row be asked, although nothing seems to be missing."""
        self._looks = True
        self.follower.check()

    def take(self) -> Batch | None:
        """As a Follower's; None when the log or the row has to be asked first, with `fill`."""
        batch, self._told = self._told, None
        if batch is not None:
            self.follower.go_to(Position(batch.epoch, batch.events[-1].seq))
        else:
            batch = Batch(self.position.epoch, []) if self.ended else self.follower.take()
        if batch is None or (self._looks and not self.ended and not batch.events and batch.rewound_to is None):
            return None
        self._looks = False
        if batch.events:
            self.ended = batch.events[-1].type in TERMINAL
        return batch

    async def fill(self) -> LogPage | None:
        """Asks the log, or the row where the log was silent. Raises Gone, ServiceUnavailable."""
        if self.follower.live and self._looks:
            self._looks = False
            await self._look()
            return None
        position = self.follower.position
        page = await self.follower.fill()
        if page.after != position.seq and not page.events:
            await self._rewound()
        return page

    async def recover(self, page: LogPage, *, latest: bool = False) -> None:  # noqa: ARG002  # as a Follower's
        """From a position that is Gone: to the end, or on from the oldest place where a reader can begin."""
        row = await executions.standing(self._database.reader, self._id)
        if row is None or row.finished_at is not None:
            await self._end(row, None)
        else:
            self.follower.go_to(await oldest(self._log, self.follower.channel, page))

    async def _rewound(self) -> None:
        """The reader was beyond what the log has: of a run that is over it may have missed the end."""
        row = await executions.standing(self._database.reader, self._id)
        if row is None or row.finished_at is not None:
            await self._end(row, None)

    async def _look(self) -> None:
        """While nothing comes: the log has a second to tell of an end that the row knows."""
        try:
            row = await executions.standing(self._database.reader, self._id)
        except AIAgentError:
            log.warning("stream_cannot_look", execution_id=str(self._id), exc_info=True)
            return
        if row is None or self._over or is_late(row):
            await self._end(row, self.follower.position.seq)
        else:
            self._over = row.finished_at is not None

    async def _end(self, row: Standing | None, told: int | None) -> None:
        batch = await ending(self._database.reader, self._log, self.follower.channel, row, told)
        self._told = batch if batch.events else None
        self.ended = not batch.events


def _before(batch: Batch) -> Position:
    return Position(batch.epoch, batch.events[0].seq - 1)


async def oldest(log: Readable, name: str, page: LogPage) -> Position:
    """The position before the first snapshot that is kept, else before the first event."""
    first = at = Position("", page.floor - 1)
    while first.seq and (events := (await log.read(name, at, PAGE_EVENTS)).events):
        for event in events:
            if event.type == EventType.SNAPSHOT:
                return Position("", event.seq - 1)
        at = Position("", events[-1].seq)
    return first
