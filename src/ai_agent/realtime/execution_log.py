"""The event log of executions: rows in SQL, and a signal in the process for those who listen at this moment.

The rows are the truth. A listener in the process that runs the execution hears of each row at once; another finds it by
looking every `POLL_SECONDS`. Both read the same rows, so a reconnect sees exactly what a live reader saw.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from ai_agent.domain.events import TERMINAL, EventType, StoredEvent
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.storage import executions
from ai_agent.storage.database import Connection, Database

POLL_SECONDS = 0.5
READ_ROWS = 200


class ExecutionLog:
    def __init__(self, database: Database):
        self._database = database
        self._listeners: dict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._draining = False

    async def append(self, connection: Connection, execution_id: UUID, *events: tuple[EventType, Any]) -> bool:
        """Writes events in the caller's transaction, False when the execution is gone. `announce` after the commit."""
        first = await executions.take_seqs(connection, execution_id, len(events))
        if first is None:
            return False
        at = now()
        for seq, (kind, data) in enumerate(events, first):
            await executions.append_event(connection, _event(execution_id, seq, kind, data, at))
        return True

    def announce(self, execution_id: UUID) -> None:
        """Wakes those who follow the execution: there is something new to read."""
        for listener in self._listeners.get(execution_id, ()):
            listener.set()

    def drain(self) -> None:
        """Lets all who follow go: the process stops, and they resume at another one."""
        self._draining = True
        for execution_id in list(self._listeners):
            self.announce(execution_id)

    async def ended(self, execution_id: UUID) -> bool:
        """Waits for the end of a run; False when the process stops first."""
        with self._listening(execution_id) as changed:
            while await executions.is_live(self._database.reader, execution_id):
                if self._draining:
                    return False
                await _next_look(changed)
        return True

    async def follow(self, execution_id: UUID, after: int) -> AsyncIterator[StoredEvent | None]:
        """Events behind `after` in order, stored and to come, until the end of the run. None: still waiting."""
        reader, live = self._database.reader, True
        with self._listening(execution_id) as changed:
            while not self._draining:
                rows = await executions.events_after(reader, execution_id, after, READ_ROWS)
                for row in rows:
                    yield row
                    after = row.seq
                    if row.type in TERMINAL:
                        return
                if rows:
                    continue
                if not live:
                    return
                # Looked up before the next read, so that nothing that was written before the end is missed.
                still = await executions.is_live(reader, execution_id)
                if still is None:
                    # Deleted with its session, events and all: its readers are told, or they would resume for ever.
                    yield _event(execution_id, after + 1, EventType.CANCELLED, {"message_id": None}, now())
                    return
                live = still
                if live:
                    await _next_look(changed)
                    yield None

    @contextlib.contextmanager
    def _listening(self, execution_id: UUID) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._listeners[execution_id].add(changed)
        try:
            yield changed
        finally:
            self._listeners[execution_id].discard(changed)
            if not self._listeners[execution_id]:
                del self._listeners[execution_id]


async def _next_look(changed: asyncio.Event) -> None:
    """Waits for an announcement, or for so long that another process may have written something."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await changed.wait()
    changed.clear()


def _event(execution_id: UUID, seq: int, kind: EventType, data: Any, at: datetime) -> StoredEvent:
    return StoredEvent(execution_id, seq, new_id(), kind, at, to_json(data))
