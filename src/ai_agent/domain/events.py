"""Events of an execution, in the frame that every reader receives."""

from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

import msgspec

from ai_agent.domain.executions import ExecutionStatus, Usage
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


class QueuedData(msgspec.Struct):
    """What is going to run, and where."""

    agent_id: UUID
    session_id: UUID
    input_message_id: UUID


class StartedData(msgspec.Struct):
    """Which attempt begins; after a restart the text so far is void."""

    attempt: int


class TokenData(msgspec.Struct):
    """A piece of the answer; `offset` counts the characters before it."""

    message_id: UUID
    offset: int
    text: str


class ReasoningData(msgspec.Struct):
    """A piece of what the model thinks; no part of the answer."""

    message_id: UUID
    text: str


class SnapshotData(msgspec.Struct):
    """The text so far, in place of events that are gone."""

    status: ExecutionStatus
    text: str


class EndedData(msgspec.Struct):
    """`message_id` is null when nothing was said."""

    message_id: UUID | None
    usage: Usage
    execution_time_ms: int


class FailedData(msgspec.Struct):
    """Why the run failed."""

    code: str
    message: str
    retryable: bool


DATA: dict[EventType, type[msgspec.Struct]] = {
    EventType.QUEUED: QueuedData,
    EventType.STARTED: StartedData,
    EventType.RESTARTED: StartedData,
    EventType.TOKEN: TokenData,
    EventType.REASONING: ReasoningData,
    EventType.SNAPSHOT: SnapshotData,
    EventType.COMPLETED: EndedData,
    EventType.FAILED: FailedData,
    EventType.CANCELLED: EndedData,
}
"""What the `data` of each type holds."""


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
    """Events of an execution, in order."""

    items: list[EventFrame]
