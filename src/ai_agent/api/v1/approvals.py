"""`/executions/{execution_id}/approvals`, `/tool-results` and `/tool-calls`."""

from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.idempotency import ATTACHES, idempotency_key
from ai_agent.domain.executions import Execution
from ai_agent.domain.identity import Scope
from ai_agent.domain.tool_calls import ResolveApproval, ToolCalls, ToolResult
from ai_agent.services.approvals import ApprovalService

ANSWERS = needs(Scope.AGENTS_EXECUTE) | ATTACHES


class ApprovalController(Controller):
    path = "/executions/{execution_id:uuid}"
    tags = ["Executions"]

    @get("/tool-calls", opt=needs(Scope.AGENTS_EXECUTE))
    async def list_tool_calls(
        self, request: Caller, execution_id: FromPath[UUID], approvals: NamedDependency[ApprovalService]
    ) -> ToolCalls:
        """List the tool calls of an execution

        What the model asked for, who allowed it and what came of it, in the order in which it asked. Calls of status
        `awaiting_approval` or `awaiting_result` are what the execution waits for.
        """
        return await approvals.calls(request.user, execution_id)

    @post("/approvals/{call_id:str}", status_code=200, opt=ANSWERS)
    async def resolve_approval(
        self,
        request: Caller,
        execution_id: FromPath[UUID],
        call_id: FromPath[str],
        data: JSONBody[ResolveApproval],
        approvals: NamedDependency[ApprovalService],
    ) -> Execution:
        """Approve or reject a tool call

        The execution goes on when its last question is answered. Approved with `arguments`, the call is made with
        those; rejected, the model hears the `reason`. A decision that was made stays: the same one again changes
        nothing, another one is 409, as for a call that has expired.
        """
        return await approvals.resolve(request.user, execution_id, call_id, data, idempotency_key(request))

    @post("/tool-results/{call_id:str}", status_code=200, opt=ANSWERS)
    async def post_tool_result(
        self,
        request: Caller,
        execution_id: FromPath[UUID],
        call_id: FromPath[str],
        data: JSONBody[ToolResult],
        approvals: NamedDependency[ApprovalService],
    ) -> Execution:
        """Post the result of a client-side tool

        The execution goes on when its last question is answered; the model hears `output`, of a failed tool with
        `is_error`. The same result again changes nothing, another one is 409.
        """
        return await approvals.deliver(request.user, execution_id, call_id, data, idempotency_key(request))
