"""An execution: one run of an agent. The row is the truth; queues and streams only tell of it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import Content, Input, JsonObject, StoredJson, check_content, check_metadata
from ai_agent.domain.resources import Resource


class ExecutionStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Usage(msgspec.Struct):
    """Tokens as the provider counts them; `estimated` when the run ended before it told."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: float | None = None
    estimated: bool = False


class ExecutionError(msgspec.Struct):
    code: str
    message: str
    retryable: bool = False
    details: dict[str, Any] | None = None


class Execution(Resource):
    id: UUID
    agent_id: UUID
    agent_version: int
    session_id: UUID
    status: ExecutionStatus
    input_message_id: UUID | None
    output_message_id: UUID | None
    error: StoredJson
    usage: StoredJson
    attempt: int
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    metadata: StoredJson


class ExecuteAgent(Input):
    message: Content
    session_id: UUID | None = None
    agent_id: UUID | None = None
    metadata: JsonObject = {}
    stream: bool = False
    on_busy: Literal["reject"] = "reject"
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] | None = None

    def check(self) -> list[FieldError]:
        blank = [] if self.message.strip() else [FieldError("message", "Must not be blank", self.message)]
        return blank + check_content("message", self.message) + check_metadata(self.metadata)


class ExecutionAnswer(msgspec.Struct):
    """What `execute` answers when the run has completed."""

    execution_id: UUID
    session_id: UUID
    message_id: UUID
    content: str
    metadata: StoredJson
    tool_calls: StoredJson
    usage: StoredJson
    execution_time_ms: int
