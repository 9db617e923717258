"""The tool calls of one step: which may run now, what each of them does, and what the model hears of it."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import structlog

from ai_agent.domain.fields import JsonObject, now
from ai_agent.domain.tool_calls import MAX_OUTPUT_BYTES, ToolCallStatus
from ai_agent.domain.tools import ToolKind
from ai_agent.execution.run_state import (
    Answered,
    Approved,
    CallRecord,
    Delivered,
    Expired,
    PendingCall,
    Rejected,
    Run,
)
from ai_agent.execution.tools import Tool, ToolFailed, Toolset

TOOL_SECONDS = 30.0

log = structlog.get_logger()


class Asked(msgspec.Struct, frozen=True):
    """A call as the model asked for it; `arguments` is None when they were no JSON object."""

    call_id: str
    name: str
    arguments: JsonObject | None


class Plan(msgspec.Struct):
    """A call and what is to be done: wait when `needs` is set, run when `tool` is set, else its record has the end."""

    record: CallRecord
    tool: Tool | None = None
    needs: Literal["approval", "result"] | None = None
    changed: bool = False


def plan(asked: Asked, step: int, tools: Toolset, answer: Answered | None, *, interrupted: bool) -> Plan:
    """Decides what becomes of a call."""
    tool = tools.tools.get(asked.name)
    kind = tool.kind if tool else ToolKind.BUILTIN
    record = CallRecord(
        asked.call_id, step, asked.name[:255], kind, asked.arguments or {}, ToolCallStatus.RUNNING, created_at=now()
    )
    match answer:
        case Delivered(output=output, is_error=is_error):
            _end(record, ToolCallStatus.FAILED if is_error else ToolCallStatus.COMPLETED, output)
            return Plan(record)
        case Rejected(reason=reason):
            record.reason = reason
            said = "A human rejected this call" + (f": {reason}" if reason else "")
            _end(record, ToolCallStatus.REJECTED, said)
            return Plan(record)
        case Expired():
            waited = "allowed this call" if tool and tool.requires_approval else "answered this call"
            _end(record, ToolCallStatus.EXPIRED, f"Nobody {waited} in time")
            return Plan(record)
    if interrupted and not (tool and tool.idempotent):
        _end(record, ToolCallStatus.INTERRUPTED, "The call was interrupted: whether it took effect is not known")
        return Plan(record)
    return _plan_new(record, asked, tool, answer)


def _plan_new(record: CallRecord, asked: Asked, tool: Tool | None, approved: Approved | None) -> Plan:
    if tool is None:
        _end(record, ToolCallStatus.FAILED, f"There is no tool named {asked.name[:255]}")
        return Plan(record)
    changed = False
    if approved is not None and approved.arguments is not None:
        changed = approved.arguments != (asked.arguments or {})
        record.arguments = approved.arguments
    faults = "they are no JSON object" if asked.arguments is None and not changed else tool.faults(record.arguments)
    if faults is not None:
        _end(record, ToolCallStatus.FAILED, f"The arguments are wrong: {faults}")
        return Plan(record, changed=changed)
    if tool.requires_approval and approved is None:
        record.status = ToolCallStatus.AWAITING_APPROVAL
        return Plan(record, needs="approval")
    if tool.operation is None:
        record.status = ToolCallStatus.AWAITING_RESULT
        return Plan(record, needs="result", changed=changed)
    return Plan(record, tool, changed=changed)


def answers_by_call(answers: Iterable[Answered]) -> Mapping[str, Answered]:
    """What came of each call last: a call may have been approved before its client answered it."""
    by_call: dict[str, Answered] = {}
    for answer in answers:
        if not isinstance(answer, Approved) or answer.call_id not in by_call:
            by_call[answer.call_id] = answer
    return by_call


async def carry_out(plans: list[Plan], run: Run) -> None:
    """Runs the tools of a step side by side, tells readers, and leaves in each record what the model hears."""
    tasks = [asyncio.create_task(_carry_out(each)) for each in plans if each.needs is None]
    try:
        for done in asyncio.as_completed(tasks):
            await run.tool_ended(await done)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry_out(plan: Plan) -> CallRecord:
    record = plan.record
    if plan.tool is not None:
        begun = time.monotonic()
        status, output = await _call(plan.tool, record)
        record.duration_ms = int((time.monotonic() - begun) * 1000)
        _end(record, status, output)
    if plan.changed:
        note = "A human changed the arguments; the call was made with these"
        record.output = {"note": note, "arguments": record.arguments, "output": record.output}
    return record


async def _call(tool: Tool, record: CallRecord) -> tuple[ToolCallStatus, Any]:
    assert tool.operation is not None  # noqa: S101  # only such a call runs
    try:
        async with asyncio.timeout(TOOL_SECONDS):
            output = await tool.operation(record.arguments)
        msgspec.json.encode(output)
    except TimeoutError:
        return ToolCallStatus.FAILED, f"The tool took longer than {TOOL_SECONDS:g} s"
    except ToolFailed as error:
        return ToolCallStatus.FAILED, str(error)
    except Exception:
        log.exception("tool_crashed", tool=tool.name, call_id=record.call_id)
        return ToolCallStatus.FAILED, "The tool failed"
    return ToolCallStatus.COMPLETED, output


def _end(record: CallRecord, status: ToolCallStatus, output: Any) -> None:
    record.status = status
    record.is_error = status is not ToolCallStatus.COMPLETED
    record.output, record.truncated = _cut(output)
    record.finished_at = now()


def _cut(output: Any) -> tuple[Any, bool]:
    """At most 256 KiB of JSON; what is cut becomes text that says so."""
    encoded = msgspec.json.encode(output)
    if len(encoded) <= MAX_OUTPUT_BYTES:
        return output, False
    text = output.encode() if isinstance(output, str) else encoded
    mark = f"\n[cut: the output had {len(encoded)} bytes]"
    kept = text[: MAX_OUTPUT_BYTES - len(mark) - 16]
    while len(msgspec.json.encode(kept.decode(errors="ignore"))) + len(mark) + 2 > MAX_OUTPUT_BYTES:
        kept = kept[: len(kept) * 3 // 4]  # Quotes and controls take more room in JSON.
    return kept.decode(errors="ignore") + mark, True


def pending(plans: list[Plan]) -> list[PendingCall]:
    return [
        PendingCall(each.record.call_id, each.record.name, each.record.kind, each.record.arguments, each.needs)
        for each in plans
        if each.needs is not None
    ]
