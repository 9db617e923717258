"""What is told of an execution, for those who follow it: a stream, or a page of it."""

from collections.abc import AsyncIterator
from uuid import UUID

from ai_agent.domain.errors import NotFound
from ai_agent.domain.events import TERMINAL, EventFrame, EventPage
from ai_agent.domain.executions import FINAL, ExecutionStatus
from ai_agent.domain.identity import Principal
from ai_agent.realtime.event_log import EventLog, Subscription
from ai_agent.storage import executions
from ai_agent.storage.database import Database

LOOK_SECONDS = 0.5
READ_EVENTS = 200


class ExecutionStreams:
    def __init__(self, database: Database, log: EventLog):
        self._database = database
        self._log = log
        self._open: set[Subscription] = set()
        self._draining = False

    def drain(self) -> None:
        """Lets all who follow go: the process stops, and they resume at another one."""
        self._draining = True
        for subscription in self._open:
            subscription.wake()

    async def epoch_of(self, principal: Principal, execution_id: UUID) -> str:
        """The epoch of the execution's events. Raises NotFound."""
        epoch = await executions.epoch(self._database.reader, principal.subject, execution_id)
        if epoch is None:
            raise NotFound("Execution not found")
        page = await self._log.read(channel(execution_id), 0, 0)
        return page.epoch or epoch

    async def page(self, principal: Principal, execution_id: UUID, after: int, limit: int) -> EventPage:
        await self.epoch_of(principal, execution_id)
        page = await self._log.read(channel(execution_id), after, limit + 1)
        return EventPage(items=page.events[:limit], has_more=len(page.events) > limit)

    async def ended(self, execution_id: UUID, *, or_waits: bool = False) -> bool:
        """Waits for the end of a run, or until it waits for somebody; False when the process stops first."""
        with self._log.subscribe(channel(execution_id)) as subscription:
            self._open.add(subscription)
            try:
                while True:
                    status = await executions.status(self._database.reader, execution_id)
                    if status is None or status in FINAL or (or_waits and status is ExecutionStatus.WAITING):
                        return True
                    if self._draining:
                        return False
                    await subscription.next(LOOK_SECONDS)
            finally:
                self._open.discard(subscription)

    async def follow(self, execution_id: UUID, after: int) -> AsyncIterator[list[EventFrame]]:
        """Events behind `after` in order, stored and to come, until the end of the run. Empty: still waiting."""
        name = channel(execution_id)
        with self._log.subscribe(name) as subscription:
            self._open.add(subscription)
            try:
                while not self._draining:
                    page = await self._log.read(name, after, READ_EVENTS)
                    if page.events:
                        yield page.events
                        after = page.events[-1].seq
                        if page.events[-1].type in TERMINAL:
                            return
                    else:
                        await subscription.next(LOOK_SECONDS)
                        yield []
            finally:
                self._open.discard(subscription)


def channel(execution_id: UUID) -> str:
    return f"execution:{execution_id}"
