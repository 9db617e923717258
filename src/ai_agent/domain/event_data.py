"""What events hold. Data of what was created or updated is the object itself, as its address answers it.

An event is at most 256 KiB, so texts and lists over 64 KiB are cut, with `truncated`: all of it is at the address.
"""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from ai_agent.domain.agents import Agent
from ai_agent.domain.executions import ExecutionStatus, Usage
from ai_agent.domain.fields import JsonObject, JsonValue, StoredJson, to_json
from ai_agent.domain.messages import Message
from ai_agent.domain.tool_calls import Decision
from ai_agent.domain.tools import ToolKind

TOLD_BYTES = 64 * 1024
"""Most of a text or list in one event, as JSON."""


class QueuedData(msgspec.Struct):
    """What is going to run, and where."""

    execution_id: UUID
    session_id: UUID
    agent_id: UUID
    input_message_id: UUID


class RunData(msgspec.Struct):
    """Which run it is; its session and agent are null when it was deleted."""

    execution_id: UUID
    session_id: UUID | None
    agent_id: UUID | None


class StartedData(RunData):
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
        text = cut(said)
        return cls(message_id, text, len(said), status, len(text) < len(said))


class NotificationData(msgspec.Struct):
    """What somebody wants a user to know."""

    title: str
    body: str | None
    data: JsonObject


class PresenceJoinedData(msgspec.Struct):
    """Somebody is in the session, who was not: with one of their clients, null where nobody knows which."""

    user_id: str
    client: str | None


class PresenceLeftData(msgspec.Struct):
    """The last of somebody's clients has left the session."""

    user_id: str


class PresenceTypingData(msgspec.Struct):
    """Somebody in the session begins to type, or has stopped."""

    user_id: str
    typing: bool


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
    truncated: bool = False


class ToolProgressData(msgspec.Struct):
    """How far a call is, where its tool says so; at most ten times a second, and lost where nobody hears it."""

    call_id: str
    name: str
    progress: float
    total: float | None = None
    message: str | None = None


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
    truncated: bool = False


class ApprovalResolvedData(msgspec.Struct):
    """How it was decided; `arguments` are those that the call is made with."""

    execution_id: UUID
    session_id: UUID
    call_id: str
    name: str
    decision: Decision
    reason: str | None
    arguments: JsonObject
    truncated: bool = False


class ApprovalExpiredData(msgspec.Struct):
    """Nobody decided in time, so the model hears of a rejection."""

    execution_id: UUID
    session_id: UUID
    call_id: str
    name: str


class EndedData(RunData):
    """`message_id` is null when nothing was said."""

    message_id: UUID | None
    usage: Usage
    execution_time_ms: int


class FailedData(RunData):
    """Why the run failed."""

    code: str
    message: str
    retryable: bool


class MessageData(Message):
    """A message; `truncated` is there when its content or its tool calls were cut."""

    truncated: bool | UnsetType = UNSET


class MessageDeletedData(msgspec.Struct):
    """The message is gone, and its replies follow its parent."""

    id: UUID
    session_id: UUID
    parent_message_id: UUID | None


class AgentData(Agent):
    """An agent; `truncated` is there when its system prompt or its tools were cut."""

    truncated: bool | UnsetType = UNSET


class DeletedData(msgspec.Struct):
    """It is gone, and this is its channel's last event."""

    id: UUID


def cut(text: str) -> str:
    """The start of a text, so much of it as fits into an event."""
    while (size := len(msgspec.json.encode(text)) - 2) > TOLD_BYTES:  # Without the quotes.
        text = text[: len(text) * TOLD_BYTES // size]
    return text


def bounded(arguments: StoredJson) -> tuple[StoredJson, bool]:
    """The arguments of a call as an event carries them, and whether they are left out."""
    return (msgspec.Raw(b"{}"), True) if len(bytes(arguments)) > TOLD_BYTES else (arguments, False)


def shown(resource: Message | Agent) -> StoredJson:
    """A message or an agent as an event carries it."""
    whole = to_json(resource)
    if len(bytes(whole)) <= TOLD_BYTES:
        return whole
    fields = msgspec.structs.asdict(resource)
    short = {name: _short(value) for name, value in fields.items()}
    return whole if short == fields else to_json(short | {"truncated": True})


def _short(value: object) -> object:
    if isinstance(value, str):
        return cut(value)
    # Of what is stored as JSON only lists can be so long.
    return msgspec.Raw(b"[]") if isinstance(value, msgspec.Raw) and len(bytes(value)) > TOLD_BYTES else value
