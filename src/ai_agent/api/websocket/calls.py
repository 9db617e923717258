"""What a socket can have done: the same as over REST, with the same checks, limits and errors."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.types import WebSocketScope

from ai_agent.api.body import decode
from ai_agent.api.guards import SCOPE, check_scope
from ai_agent.api.rate_limits import limits_of, note_left
from ai_agent.api.v1.approvals import ApprovalController
from ai_agent.api.v1.executions import ExecutionController
from ai_agent.api.v1.messages import MessageController
from ai_agent.api.websocket.errors import Unsupported
from ai_agent.domain.errors import FieldError, InvalidFields, NotFound
from ai_agent.domain.executions import ExecuteAgent
from ai_agent.domain.fields import Input, JsonObject
from ai_agent.domain.identity import Principal
from ai_agent.domain.messages import CreateMessage
from ai_agent.domain.rate_limits import RateLimitExceeded
from ai_agent.domain.tool_calls import ResolveApproval
from ai_agent.services.approvals import ApprovalService
from ai_agent.services.executions import ExecutionService
from ai_agent.services.messages import MessageService
from ai_agent.services.rate_limits import Left, RateLimitService


class Nothing(Input):
    """No further parameters."""


class Asked(msgspec.Struct, frozen=True):
    """A call that was checked."""

    principal: Principal
    path: Mapping[str, str]
    body: Any
    correlation_id: str

    def id(self, name: str) -> UUID:
        """Raises NotFound for what is no id, as an address with it would."""
        try:
            return UUID(self.path[name])
        except ValueError:
            raise NotFound("There is nothing at this address") from None


class Method(msgspec.Struct, frozen=True):
    """`twin` is the operation that does the same over REST, `path` names the parameters that are in its path."""

    twin: HTTPRouteHandler
    path: tuple[str, ...]
    body: type[Input]
    run: Callable[["Calls", Asked], Awaitable[object]]


class Calls:
    def __init__(
        self,
        executions: ExecutionService,
        approvals: ApprovalService,
        messages: MessageService,
        rate_limits: RateLimitService,
    ):
        self.executions = executions
        self.approvals = approvals
        self.messages = messages
        self._limits = {name: limits_of(method.twin.opt, rate_limits, name) for name, method in METHODS.items()}

    async def call(self, principal: Principal, scope: WebSocketScope, name: str, params: JsonObject) -> object:
        """What the twin answers. Raises Unsupported, and what the twin raises."""
        if name not in METHODS:
            raise Unsupported(f"There is no method {name[:50]!r}", field="method")
        method = METHODS[name]
        await self._charge(principal, scope, name)
        check_scope(principal, method.twin.opt[SCOPE])
        rest = dict(params)
        path = {parameter: _text(rest, parameter) for parameter in method.path}
        body = decode(msgspec.json.encode(rest), method.body)
        return await method.run(self, Asked(principal, path, body, scope["correlation_id"]))  # type: ignore[typeddict-item]  # ours

    async def _charge(self, principal: Principal, scope: WebSocketScope, name: str) -> None:
        limits = self._limits[name]
        if limits is None:
            return
        try:
            await limits.charge(scope, _nothing, principal)
        except RateLimitExceeded as refused:
            note_left(scope, Left(refused.plan, refused.charge, refused.state), "rejected")
            raise


async def _nothing() -> Any:
    """These limits depend on nothing that is still to be received."""


def _text(params: JsonObject, name: str) -> str:
    if name not in params:
        raise InvalidFields([FieldError(name, "Is required")])
    value = params.pop(name)
    if not isinstance(value, str):
        raise InvalidFields([FieldError(name, "Must be a string", value)])
    return value


def _cancel(rooms: Calls, asked: Asked) -> Awaitable[object]:
    return rooms.executions.cancel(asked.principal, asked.id("execution_id"))


def _approve(rooms: Calls, asked: Asked) -> Awaitable[object]:
    return rooms.approvals.resolve(asked.principal, asked.id("execution_id"), asked.path["call_id"], asked.body)


def _execute(rooms: Calls, asked: Asked) -> Awaitable[object]:
    return rooms.executions.start(asked.principal, asked.id("agent_id"), asked.body, asked.correlation_id, None)


def _create_message(rooms: Calls, asked: Asked) -> Awaitable[object]:
    return rooms.messages.create(asked.principal, asked.id("session_id"), asked.body)


METHODS = {
    "execution.cancel": Method(ExecutionController.cancel_execution, ("execution_id",), Nothing, _cancel),
    "execution.approve": Method(
        ApprovalController.resolve_approval, ("execution_id", "call_id"), ResolveApproval, _approve
    ),
    "agent.execute": Method(ExecutionController.create_execution, ("agent_id",), ExecuteAgent, _execute),
    "message.create": Method(MessageController.create_message, ("session_id",), CreateMessage, _create_message),
}
