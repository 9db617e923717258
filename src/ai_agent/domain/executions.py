"""An execution: one run of an agent. The row is the truth; queues and streams only tell of it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import (
    Content,
    Holds,
    Input,
    JsonObject,
    StoredJson,
    StoredObject,
    StoredObjects,
    check_content,
    check_metadata,
)
from ai_agent.domain.resources import Resource


class ExecutionStatus(StrEnum):
    """The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})


class OnBusy(StrEnum):
    """What becomes of a run that is wanted where another one is live.

    `reject` refuses it; `enqueue` runs it behind those that wait; `interrupt` cancels the live one, keeps what that
    has said, and runs it next; `rollback` does the same and removes the live one's messages.
    """

    REJECT = "reject"
    ENQUEUE = "enqueue"
    INTERRUPT = "interrupt"
    ROLLBACK = "rollback"


class Usage(msgspec.Struct):
    """Tokens as the provider counts them; `estimated` when the run ended before it told."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: float | None = None
    estimated: bool = False


class ExecutionError(msgspec.Struct):
    """Why a run failed."""

    code: str
    message: str
    retryable: bool = False
    details: dict[str, Any] | None = None


class Execution(Resource):
    """One run of an agent."""

    id: UUID
    agent_id: UUID
    agent_version: int
    session_id: UUID
    status: ExecutionStatus
    input_message_id: UUID | None
    output_message_id: UUID | None
    error: Annotated[StoredJson, Holds(ExecutionError | None)]
    usage: Annotated[StoredJson, Holds(Usage | None)]
    attempt: int
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    metadata: StoredObject


class ExecuteAgent(Input):
    """What to say to the agent, and how to run it."""

    message: Content
    session_id: UUID | None = None
    agent_id: UUID | None = None
    metadata: JsonObject = {}
    stream: bool = False
    on_busy: OnBusy | None = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] | None = None
    callback_url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None

    def check(self) -> list[FieldError]:
        blank = [] if self.message.strip() else [FieldError("message", "Must not be blank", self.message)]
        return blank + check_content("message", self.message) + check_metadata(self.metadata)


class ExecutionAnswer(msgspec.Struct):
    """What `execute` answers when the run has completed."""

    execution_id: UUID
    session_id: UUID
    message_id: UUID
    content: str
    metadata: StoredObject
    tool_calls: StoredObjects
    usage: Annotated[StoredJson, Holds(Usage)]
    execution_time_ms: int
