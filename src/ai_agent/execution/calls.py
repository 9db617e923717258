"""The tool calls of one step: which may run now, what each of them does, and what the model hears of it."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import msgspec

from ai_agent.domain.fields import JsonObject, now
from ai_agent.domain.tool_calls import ToolCallStatus
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
from ai_agent.execution.tools import INTERRUPTED, Call, Tool, Toolset, cut, perform


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
        _end(record, ToolCallStatus.INTERRUPTED, INTERRUPTED)
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


async def carry_out(plans: list[Plan], owner: str, run: Run) -> None:
    """Runs the tools of a step side by side, tells readers, and leaves in each record what the model hears."""
    tasks = [asyncio.create_task(_carry_out(each, owner, run)) for each in plans if each.needs is None]
    try:
        for done in asyncio.as_completed(tasks):
            await run.tool_ended(await done)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry_out(plan: Plan, owner: str, run: Run) -> CallRecord:
    record = plan.record
    if plan.tool is not None:
        outcome = await perform(plan.tool, Call(record.arguments, owner, partial(run.tool_progresses, record)))
        record.duration_ms = outcome.duration_ms
        _end(record, ToolCallStatus.FAILED if outcome.is_error else ToolCallStatus.COMPLETED, outcome.output)
        record.truncated = outcome.truncated
    if plan.changed:
        note = "A human changed the arguments; the call was made with these"
        record.output = {"note": note, "arguments": record.arguments, "output": record.output}
    return record


def _end(record: CallRecord, status: ToolCallStatus, output: Any) -> None:
    record.status = status
    record.is_error = status is not ToolCallStatus.COMPLETED
    record.output, record.truncated = cut(output)
    record.finished_at = now()


def pending(plans: list[Plan]) -> list[PendingCall]:
    return [
        PendingCall(each.record.call_id, each.record.name, each.record.kind, each.record.arguments, each.needs)
        for each in plans
        if each.needs is not None
    ]
