"""What a stored call is for those who watch, and for the loop that goes on with it."""

from typing import Any

import msgspec

from ai_agent.domain.event_data import TOLD_BYTES, bounded, cut
from ai_agent.domain.events import EventType
from ai_agent.domain.fields import StoredJson
from ai_agent.domain.tool_calls import ToolCall, ToolCallStatus
from ai_agent.domain.tools import ToolKind
from ai_agent.execution.run_state import Answered, Approved, Delivered, Expired, Rejected


def answer_of(call: ToolCall) -> Answered | None:
    """What came of a call that waited; None for one that did not."""
    match call.status:
        case ToolCallStatus.APPROVED | ToolCallStatus.RUNNING:  # One that was running was allowed.
            return Approved(call.call_id, msgspec.json.decode(call.arguments))
        case ToolCallStatus.REJECTED:
            return Rejected(call.call_id, call.reason)
        case ToolCallStatus.EXPIRED:
            return Expired(call.call_id)
        case ToolCallStatus.COMPLETED | ToolCallStatus.FAILED if call.kind is ToolKind.CLIENT:
            return Delivered(call.call_id, msgspec.json.decode(call.output), call.is_error)
    return None


def call_event(call: ToolCall) -> tuple[EventType, dict[str, Any]]:
    """What those who watch hear of a call."""
    named: dict[str, Any] = {"call_id": call.call_id, "name": call.name}
    if call.status in {ToolCallStatus.RUNNING, ToolCallStatus.AWAITING_RESULT}:
        arguments, left_out = bounded(call.arguments)
        begun = {"kind": call.kind, "arguments": arguments, "expires_at": call.expires_at, "truncated": left_out}
        return EventType.TOOL_STARTED, named | begun
    went_well = call.status is ToolCallStatus.COMPLETED and not call.is_error
    output, truncated = _shown(call.output)
    ended = named | {"output": output, "duration_ms": call.duration_ms, "truncated": truncated}
    return EventType.TOOL_COMPLETED if went_well else EventType.TOOL_FAILED, ended


def _shown(output: StoredJson) -> tuple[Any, bool]:
    """The output as an event carries it: of a long one, the start of its text."""
    encoded = bytes(output)
    if len(encoded) <= TOLD_BYTES:
        return output, False
    value = msgspec.json.decode(encoded)
    text = value if isinstance(value, str) else encoded.decode()
    return cut(text), True
