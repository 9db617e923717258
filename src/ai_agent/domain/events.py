"""Events, in the frame that every reader receives."""

import time
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from uuid import UUID

import msgspec

from ai_agent.domain.executions import ExecutionError, ExecutionStatus, Usage
from ai_agent.domain.fields import JsonObject, JsonValue, StoredJson, new_id, to_json
from ai_agent.domain.pages import Page
from ai_agent.domain.tool_calls import Decision
from ai_agent.domain.tools import ToolKind


class EventType(StrEnum):
    QUEUED = "execution.queued"
    STARTED = "execution.started"
    RESTARTED = "execution.restarted"
    TOKEN = "execution.token"  # noqa: S105  # an event's name, not a secret
    REASONING = "execution.reasoning"
    SNAPSHOT = "execution.snapshot"
    PROGRESS = "execution.progress"
    COMPLETED = "execution.completed"
    FAILED = "execution.failed"
    CANCELLED = "execution.cancelled"
    TOOL_STARTED = "tool.started"
    TOOL_COMPLETED = "tool.completed"
    TOOL_FAILED = "tool.failed"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_RESOLVED = "approval.resolved"
    APPROVAL_EXPIRED = "approval.expired"
    MESSAGE_CREATED = "message.created"
    MESSAGE_UPDATED = "message.updated"
    MESSAGE_DELETED = "message.deleted"
    SESSION_CREATED = "session.created"
    SESSION_UPDATED = "session.updated"
    SESSION_DELETED = "session.deleted"
    AGENT_CREATED = "agent.created"
    AGENT_UPDATED = "agent.updated"
    AGENT_DELETED = "agent.deleted"
    APPLICATION = "application.event"


TOLD_CHARACTERS = 64 * 1024
"""Most of a text in one event; all of it is at its own address."""

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
    """The text so far, in place of events that are gone; `offset` is its length. The next token follows it."""

    message_id: UUID | None
    text: str
    offset: int
    status: ExecutionStatus
    truncated: bool = False

    @classmethod
    def of(cls, message_id: UUID | None, said: str, status: ExecutionStatus) -> "SnapshotData":
        """Of a long text only the start is told; the offset counts all of it."""
        return cls(message_id, said[:TOLD_CHARACTERS], len(said), status, len(said) > TOLD_CHARACTERS)


class ProgressData(msgspec.Struct):
    """The step that begins: one request to the model, and the tools that it asks for. `steps` is the bound."""

    step: int
    steps: int
    percent: float | None = None
    message: str | None = None


class ToolStartedData(msgspec.Struct):
    """The model calls a tool. One of kind `client` is for the client to run, which answers until `expires_at`."""

    call_id: str
    name: str
    kind: ToolKind
    arguments: JsonObject
    expires_at: datetime | None = None


class ToolEndedData(msgspec.Struct):
    """What came of a call, as the model hears it. Text over 64 KiB is cut; the execution's tool calls have all."""

    call_id: str
    name: str
    output: JsonValue
    duration_ms: int | None
    truncated: bool = False


class ApprovalRequestedData(msgspec.Struct):
    """Somebody has to allow a call until `expires_at`, or it counts as rejected."""

    execution_id: UUID
    session_id: UUID
    call_id: str
    name: str
    arguments: JsonObject
    expires_at: datetime


class ApprovalResolvedData(msgspec.Struct):
    """How it was decided; `arguments` are those that the call is made with."""

    execution_id: UUID
    session_id: UUID
    call_id: str
    name: str
    decision: Decision
    reason: str | None
    arguments: JsonObject


class ApprovalExpiredData(msgspec.Struct):
    """Nobody decided in time, so the model hears of a rejection."""

    execution_id: UUID
    session_id: UUID
    call_id: str
    name: str


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


def terminal(
    status: ExecutionStatus,
    message_id: UUID | None,
    usage: Usage,
    error: ExecutionError | None,
    execution_time_ms: int,
) -> tuple[EventType, EndedData | FailedData]:
    """The event that ends a run, and its data; a failed run without an error is a fault of ours."""
    kind = EventType(f"execution.{status}")
    if status is not ExecutionStatus.FAILED:
        return kind, EndedData(message_id, usage, execution_time_ms)
    error = error or ExecutionError("internal_error", "The execution ended without an answer")
    return kind, FailedData(error.code, error.message, error.retryable)


DATA: dict[EventType, type[msgspec.Struct]] = {
    EventType.QUEUED: QueuedData,
    EventType.STARTED: StartedData,
    EventType.RESTARTED: StartedData,
    EventType.TOKEN: TokenData,
    EventType.REASONING: ReasoningData,
    EventType.SNAPSHOT: SnapshotData,
    EventType.PROGRESS: ProgressData,
    EventType.COMPLETED: EndedData,
    EventType.FAILED: FailedData,
    EventType.CANCELLED: EndedData,
    EventType.TOOL_STARTED: ToolStartedData,
    EventType.TOOL_COMPLETED: ToolEndedData,
    EventType.TOOL_FAILED: ToolEndedData,
    EventType.APPROVAL_REQUESTED: ApprovalRequestedData,
    EventType.APPROVAL_RESOLVED: ApprovalResolvedData,
    EventType.APPROVAL_EXPIRED: ApprovalExpiredData,
}
"""What the `data` of each type holds."""


class NewEvent(msgspec.Struct, frozen=True):
    """An event on its way to a log. `eid` is the publisher's: what is appended twice is there once."""

    type: str
    data: StoredJson
    eid: UUID
    ts: int

    @classmethod
    def of(cls, kind: str, data: object) -> "NewEvent":
        return cls(kind, to_json(data), new_id(), time.time_ns() // 1_000_000)


class EventFrame(msgspec.Struct, frozen=True, tag_field="t", tag="event", dict=True):
    """An event as it is delivered; `ts` is milliseconds since the epoch."""

    ch: str
    seq: int
    eid: UUID
    type: str
    ts: int
    data: StoredJson

    @classmethod
    def of_json(cls, json: bytes) -> "EventFrame":
        """Of what another process encoded, which stays as it is."""
        frame = _DECODER.decode(json)
        frame.__dict__["json"] = json
        return frame

    @cached_property
    def json(self) -> bytes:
        """As everybody hears it: encoded once, however many listen."""
        return msgspec.json.encode(self)

    @cached_property
    def text(self) -> str:
        """The same, for sockets, whose text is a string."""
        return self.json.decode()

    @cached_property
    def msgpack(self) -> bytes:
        """The same map in MessagePack; ids and times are strings there, too."""
        return msgspec.msgpack.encode(msgspec.json.decode(self.json))


_DECODER = msgspec.json.Decoder(EventFrame)


class EventPage(Page):
    """Events of an execution, in order."""

    items: list[EventFrame]
