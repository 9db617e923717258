"""What a run waits for: somebody's decision on a call, or a client's result of one. Answered, the run goes on."""

from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.channels import execution_channel
from ai_agent.domain.errors import Conflict, FieldError, InvalidFields, NotFound
from ai_agent.domain.event_data import bounded
from ai_agent.domain.events import EventType
from ai_agent.domain.executions import Execution, ExecutionStatus
from ai_agent.domain.fields import JsonObject, milliseconds, now, to_json
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.domain.identity import Principal
from ai_agent.domain.tool_calls import Decision, ResolveApproval, ToolCall, ToolCalls, ToolCallStatus, ToolResult
from ai_agent.execution.call_events import call_event
from ai_agent.execution.runs import Runs
from ai_agent.execution.tools import Toolbox, Toolset
from ai_agent.realtime.announcements import Announcements
from ai_agent.realtime.publisher import Publisher
from ai_agent.services.executions import found
from ai_agent.services.idempotency import WAIT_SECONDS, claim
from ai_agent.storage import executions, tool_calls, tools
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.executions import Located

_DECIDED = {Decision.APPROVE: ToolCallStatus.APPROVED, Decision.REJECT: ToolCallStatus.REJECTED}


class ApprovalService:
    def __init__(
        self, database: Database, publisher: Publisher, announcements: Announcements, runs: Runs, toolbox: Toolbox
    ):
        self._database = database
        self._publisher = publisher
        self._announce = announcements
        self._runs = runs
        self._toolbox = toolbox

    async def calls(self, principal: Principal, execution_id: UUID) -> ToolCalls:
        """The calls of an execution. Raises NotFound."""
        found(await executions.get(self._database.reader, principal.subject, execution_id))
        return ToolCalls(await tool_calls.of_run(self._database.reader, execution_id))

    async def resolve(
        self,
        principal: Principal,
        execution_id: UUID,
        call_id: str,
        wanted: ResolveApproval,
        key: IdempotencyKey | None = None,
    ) -> Execution:
        """Allows a call, or refuses it. Raises NotFound, and Conflict for a call that waits for no decision."""
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            run, call = await self._locked(rows, principal, execution_id, call_id, key)
            if not _decided(call, wanted):
                await self._resolve(rows, run, call, wanted)
            return found(await executions.get(rows, principal.subject, execution_id))

    async def _resolve(self, rows: Connection, run: Located, call: ToolCall, wanted: ResolveApproval) -> None:
        _expect(run, call, ToolCallStatus.AWAITING_APPROVAL)
        if wanted.arguments is not None:
            await _check_arguments(rows, run, call, wanted.arguments, self._toolbox)
        call.decision = wanted.decision
        call.status = _DECIDED[wanted.decision]
        call.reason = wanted.reason
        if wanted.decision is Decision.REJECT:
            call.finished_at = now()
        elif wanted.arguments is not None:
            call.arguments = to_json(wanted.arguments)
        await tool_calls.keep(rows, run.id, call)
        data = _resolved(run, call, wanted.decision)
        self._announce.approvals(rows, run, (EventType.APPROVAL_RESOLVED, data))
        await self._runs.go_on(rows, run.id, run.session_id, run.agent_id)

    async def deliver(
        self,
        principal: Principal,
        execution_id: UUID,
        call_id: str,
        wanted: ToolResult,
        key: IdempotencyKey | None = None,
    ) -> Execution:
        """Takes the result of a client's tool. Raises NotFound, and Conflict for a call that waits for no result."""
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            run, call = await self._locked(rows, principal, execution_id, call_id, key)
            output = to_json(wanted.output)
            if not _delivered(call, output, is_error=wanted.is_error):
                _expect(run, call, ToolCallStatus.AWAITING_RESULT)
                at = now()
                call.status = ToolCallStatus.FAILED if wanted.is_error else ToolCallStatus.COMPLETED
                call.output, call.is_error, call.finished_at = output, wanted.is_error, at
                call.duration_ms = milliseconds(call.created_at, at)
                await tool_calls.keep(rows, run.id, call)
                self._publisher.record(rows, execution_channel(run.id), call_event(call))
                await self._runs.go_on(rows, run.id, run.session_id, run.agent_id)
            return found(await executions.get(rows, principal.subject, execution_id))

    async def _locked(
        self, rows: Connection, principal: Principal, execution_id: UUID, call_id: str, key: IdempotencyKey | None
    ) -> tuple[Located, ToolCall]:
        """The run and the call, which nobody else answers meanwhile."""
        if key is not None:
            await claim(rows, principal.subject, key, execution_id)
        found(await executions.get(rows, principal.subject, execution_id))
        run = await executions.lock(rows, execution_id)
        call = await tool_calls.get(rows, execution_id, call_id)
        if run is None or call is None:
            raise NotFound("The execution has no such tool call")
        return run, call


def _expect(run: Located, call: ToolCall, status: ToolCallStatus) -> None:
    # A run that is about to wait, or has ended, takes no answers: nobody would hear them.
    if call.status is not status or run.status is not ExecutionStatus.WAITING:
        wanted = "an approval" if status is ToolCallStatus.AWAITING_APPROVAL else "a result"
        details = {"status": call.status, "execution_status": run.status}
        raise Conflict(f"The tool call does not wait for {wanted}", details=details)


async def _check_arguments(
    rows: Connection, run: Located, call: ToolCall, arguments: JsonObject, toolbox: Toolbox
) -> None:
    """Raises InvalidFields for arguments that the tool would not take."""
    specs = await tools.named(rows, run.owner_id, [call.name])
    tool = Toolset([call.name], specs, toolbox).tools.get(call.name)
    if tool is not None and (fault := tool.faults(arguments)) is not None:
        raise InvalidFields([FieldError("arguments", f"Do not fit the tool: {fault}")])


def _decided(call: ToolCall, wanted: ResolveApproval) -> bool:
    """Whether it was decided so already."""
    same = wanted.arguments is None or wanted.arguments == msgspec.json.decode(call.arguments)
    return call.decision == wanted.decision and same


def _delivered(call: ToolCall, output: msgspec.Raw, *, is_error: bool) -> bool:
    """Whether this very result was taken already."""
    ended = call.status in {ToolCallStatus.COMPLETED, ToolCallStatus.FAILED}
    return ended and call.is_error == is_error and msgspec.json.decode(call.output) == msgspec.json.decode(output)


def _resolved(run: Located, call: ToolCall, decision: Decision) -> dict[str, Any]:
    arguments, left_out = bounded(call.arguments)
    about = {"execution_id": run.id, "session_id": run.session_id, "call_id": call.call_id, "name": call.name}
    decided = {"decision": decision, "reason": call.reason, "arguments": arguments, "truncated": left_out}
    return about | decided
