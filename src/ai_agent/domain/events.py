"""Events of an execution, in the frame that every reader receives."""

from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

import msgspec

from ai_agent.domain.fields import StoredJson
from ai_agent.domain.pages import Page


class EventType(StrEnum):
    QUEUED = "execution.queued"
    STARTED = "execution.started"
    RESTARTED = "execution.restarted"
    TOKEN = "execution.token"  # noqa: S105  # an event's name, not a secret
    REASONING = "execution.reasoning"
    SNAPSHOT = "execution.snapshot"
    COMPLETED = "execution.completed"
    FAILED = "execution.failed"
    CANCELLED = "execution.cancelled"


TERMINAL = frozenset({EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED})


class StoredEvent(msgspec.Struct, frozen=True):
    """One row of the log: `seq` grows by one per execution."""

    execution_id: UUID
    seq: int
    eid: UUID
    type: EventType
    created_at: datetime
    data: StoredJson


class EventFrame(msgspec.Struct, frozen=True):
    """An event as it is delivered; `ts` is milliseconds since the epoch."""

    ch: str
    seq: int
    eid: UUID
    type: EventType
    ts: int
    data: StoredJson
    t: Literal["event"] = "event"

    @classmethod
    def of(cls, event: StoredEvent) -> "EventFrame":
        ts = int(event.created_at.timestamp() * 1000)
        return cls(f"execution:{event.execution_id}", event.seq, event.eid, event.type, ts, event.data)


class EventPage(Page):
    items: list[EventFrame]
