"""A call of a tool in a run: what the model asked for, who allowed it, and what came of it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import Holds, Input, JsonObject, JsonValue, StoredJson, StoredObject
from ai_agent.domain.tools import ToolKind

MAX_OUTPUT_BYTES = 256 * 1024


class ToolCallStatus(StrEnum):
    """The last five are final."""

    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    AWAITING_RESULT = "awaiting_result"
    APPROVED = "approved"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    INTERRUPTED = "interrupted"


ENDED = frozenset(
    {
        ToolCallStatus.COMPLETED,
        ToolCallStatus.FAILED,
        ToolCallStatus.REJECTED,
        ToolCallStatus.EXPIRED,
        ToolCallStatus.INTERRUPTED,
    }
)


class Decision(StrEnum):
    """What somebody says to a call that needs approval."""

    APPROVE = "approve"
    REJECT = "reject"


class ToolCall(msgspec.Struct):
    """One call. `output` is what the model hears, null until the call has ended."""

    call_id: str
    step: int
    name: str
    kind: ToolKind
    arguments: StoredObject
    status: ToolCallStatus
    output: Annotated[StoredJson, Holds(JsonValue)]
    is_error: bool
    decision: Decision | None
    reason: str | None
    duration_ms: int | None
    expires_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


class ToolCalls(msgspec.Struct):
    """The calls of an execution, in the order in which the model asked for them."""

    items: list[ToolCall]


class ResolveApproval(Input):
    """Whether a call may be made; `arguments` replace the model's own."""

    decision: Decision
    reason: Annotated[str, Meta(max_length=4096)] | None = None
    arguments: JsonObject | None = None

    def check(self) -> list[FieldError]:
        if self.arguments is not None and self.decision is Decision.REJECT:
            return [FieldError("arguments", "Are for a call that is approved")]
        return []


class ToolResult(Input):
    """What came of a client-side tool."""

    output: JsonValue
    is_error: bool = False
