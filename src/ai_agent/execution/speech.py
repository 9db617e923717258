"""What a model says in a run, on its way to the log: the first piece at once, what follows joined for a moment."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ai_agent.domain.errors import AIAgentError, ServiceUnavailable
from ai_agent.domain.event_data import SnapshotData
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.executions import ExecutionStatus
from ai_agent.domain.fields import now
from ai_agent.execution.endings import LostClaim
from ai_agent.execution.undisturbed import undisturbed

JOIN_SECONDS = 0.04
JOIN_CHARACTERS = 1024
SNAPSHOT_EVENTS = 2000
"""So often all that was said is logged anew, so that whoever comes late finds it when the first pieces are gone."""

Write = Callable[[Sequence[NewEvent]], Coroutine[Any, Any, None]]


class Speech:
    def __init__(self, write: Write, message_id: UUID, said: str = ""):
        """`said` is the text of steps before, which a piece's offset counts from."""
        self._write = write
        self._message_id = message_id
        self._spoken = [said] if said else []
        self._logged = len(said)
        self._waiting: list[tuple[str, str]] = []
        self._size = 0
        self._events_logged = 0
        self._last_flush = 0.0
        self._flushing = asyncio.Lock()
        self._late: asyncio.Task[None] | None = None
        self.first_at: datetime | None = None

    async def say(self, kind: str, text: str) -> None:
        self._waiting.append((kind, text))
        self._size += len(text)
        if kind == "token":
            self._spoken.append(text)
            self.first_at = self.first_at or now()
        if self._size >= JOIN_CHARACTERS or time.monotonic() - self._last_flush >= JOIN_SECONDS:
            # While the log cannot be written the model is listened to all the same, and nothing it says is dropped.
            with contextlib.suppress(ServiceUnavailable):
                await self.flush()
        elif self._late is None or self._late.done():
            # A model that pauses must not keep its last words to itself.
            self._late = asyncio.create_task(self._flush_late())

    async def _flush_late(self) -> None:
        await asyncio.sleep(JOIN_SECONDS)
        # What goes wrong here leaves the pieces waiting: the next flush meets it where the run can end.
        with contextlib.suppress(LostClaim, AIAgentError):
            await self.flush()

    async def flush(self) -> None:
        """Logs what waits. Raises LostClaim, and ServiceUnavailable when the log cannot be written."""
        async with self._flushing:
            if not self._waiting:
                return
            pieces = len(self._waiting)
            events, length = self._events(_joined(self._waiting))
            _, cancelled = await undisturbed(self._write(events))
            self._size -= sum(len(text) for _, text in self._waiting[:pieces])
            del self._waiting[:pieces]
            self._logged = length
            self._events_logged += len(events)
            self._last_flush = time.monotonic()
        if cancelled:
            raise asyncio.CancelledError

    def _events(self, pieces: list[tuple[str, str]]) -> tuple[list[NewEvent], int]:
        """The pieces as events, and how many characters have been said with them."""
        events: list[NewEvent] = []
        offset = self._logged
        for kind, text in pieces:
            if kind == "token":
                data = {"message_id": self._message_id, "offset": offset, "text": text}
                events.append(NewEvent.of(EventType.TOKEN, data))
                offset += len(text)
            else:
                events.append(NewEvent.of(EventType.REASONING, {"message_id": self._message_id, "text": text}))
        if (self._events_logged + len(events)) // SNAPSHOT_EVENTS > self._events_logged // SNAPSHOT_EVENTS:
            said = "".join(self._spoken)[:offset]
            snapshot = SnapshotData.of(self._message_id, said, ExecutionStatus.RUNNING)
            events.append(NewEvent.of(EventType.SNAPSHOT, snapshot))
        return events, offset

    async def close(self) -> None:
        if self._late is not None:
            self._late.cancel()
            await asyncio.wait([self._late])


def _joined(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    joined: list[tuple[str, str]] = []
    for kind, text in pieces:
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + text)
        else:
            joined.append((kind, text))
    return joined
