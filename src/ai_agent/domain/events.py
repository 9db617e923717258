"""Events, in the frame that every reader receives."""

import time
from enum import StrEnum
from functools import cached_property
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from ai_agent.domain.event_data import (
    AgentData,
    ApprovalExpiredData,
    ApprovalRequestedData,
    ApprovalResolvedData,
    DeletedData,
    EndedData,
    FailedData,
    MessageData,
    MessageDeletedData,
    NotificationData,
    PresenceJoinedData,
    PresenceLeftData,
    PresenceTypingData,
    ProgressData,
    QueuedData,
    ReasoningData,
    SnapshotData,
    StartedData,
    TokenData,
    ToolEndedData,
    ToolProgressData,
    ToolStartedData,
)
from ai_agent.domain.executions import ExecutionError, ExecutionStatus, Usage
from ai_agent.domain.fields import StoredJson, new_id, packed_json, to_json
from ai_agent.domain.mcp_servers import McpServerStatusData
from ai_agent.domain.pages import Page
from ai_agent.domain.sessions import Session


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
    TOOL_PROGRESS = "tool.progress"
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
    PRESENCE_JOINED = "presence.joined"
    PRESENCE_LEFT = "presence.left"
    PRESENCE_TYPING = "presence.typing"
    MCP_SERVER_STATUS = "mcp_server.status"
    NOTIFICATION = "notification"
    APPLICATION = "application.event"


TERMINAL = frozenset({EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED})


def terminal(
    run: tuple[UUID, UUID | None, UUID | None],
    status: ExecutionStatus,
    message_id: UUID | None,
    usage: Usage,
    error: ExecutionError | None,
    execution_time_ms: int,
) -> tuple[EventType, EndedData | FailedData]:
    """The event that ends a run, and its data; a failed run without an error is a fault of ours.

    `run` are the ids of execution, session and agent.
    """
    kind = EventType(f"execution.{status}")
    if status is not ExecutionStatus.FAILED:
        return kind, EndedData(*run, message_id, usage, execution_time_ms)
    error = error or ExecutionError("internal_error", "The execution ended without an answer")
    return kind, FailedData(*run, error.code, error.message, error.retryable)


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
    EventType.TOOL_PROGRESS: ToolProgressData,
    EventType.TOOL_COMPLETED: ToolEndedData,
    EventType.TOOL_FAILED: ToolEndedData,
    EventType.APPROVAL_REQUESTED: ApprovalRequestedData,
    EventType.APPROVAL_RESOLVED: ApprovalResolvedData,
    EventType.APPROVAL_EXPIRED: ApprovalExpiredData,
    EventType.MESSAGE_CREATED: MessageData,
    EventType.MESSAGE_UPDATED: MessageData,
    EventType.MESSAGE_DELETED: MessageDeletedData,
    EventType.SESSION_CREATED: Session,
    EventType.SESSION_UPDATED: Session,
    EventType.SESSION_DELETED: DeletedData,
    EventType.AGENT_CREATED: AgentData,
    EventType.AGENT_UPDATED: AgentData,
    EventType.AGENT_DELETED: DeletedData,
    EventType.PRESENCE_JOINED: PresenceJoinedData,
    EventType.PRESENCE_LEFT: PresenceLeftData,
    EventType.PRESENCE_TYPING: PresenceTypingData,
    EventType.MCP_SERVER_STATUS: McpServerStatusData,
    EventType.NOTIFICATION: NotificationData,
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
    """An event as it is delivered; `ts` is milliseconds since the epoch.

    Those of a user's queue have its `lane`, which their `seq` counts in, want to be acknowledged (`ack`), and say for
    which time they are sent (`try`), and in milliseconds until when they matter (`exp`).
    """

    ch: str
    seq: int
    eid: UUID
    type: str
    ts: int
    data: StoredJson
    lane: int | UnsetType = UNSET
    ack: bool | UnsetType = UNSET
    try_: int | UnsetType = msgspec.field(default=UNSET, name="try")
    exp: int | UnsetType = UNSET

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
        return packed_json(self.json)

    @cached_property
    def messages(self) -> dict[str, dict[str, Any]]:
        """As sockets send it, by subprotocol: made once, too."""
        return {}


_DECODER = msgspec.json.Decoder(EventFrame)


class EventPage(Page):
    """Events of an execution, in order."""

    items: list[EventFrame]
