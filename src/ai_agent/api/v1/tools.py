"""`/tools`."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from ai_agent.api.answers import expected
from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.idempotency import LEASED, idempotency_key
from ai_agent.api.openapi import may_answer
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.api.rate_limits import limited
from ai_agent.domain.identity import Scope
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.rate_limits import RouteClass
from ai_agent.domain.search import checked
from ai_agent.domain.tools import (
    CreateTool,
    InvokeTool,
    PatchTool,
    ReplaceTool,
    Tool,
    ToolFilter,
    ToolKind,
    ToolOutput,
    ToolPage,
)
from ai_agent.services.tools import ToolService

INVOKE = needs(Scope.TOOLS_INVOKE) | limited(RouteClass.TOOL_INVOKE) | LEASED | may_answer(409)


class ToolController(Controller):
    path = "/tools"
    tags = ["Tools"]

    @post(opt=needs(Scope.TOOLS_WRITE))
    async def create_tool(
        self, request: Caller, data: JSONBody[CreateTool], tools: NamedDependency[ToolService]
    ) -> Tool:
        """Register a tool

        Agents call it by its name, unique among the tools of the caller. A tool needs the `schema` of its arguments:
        JSON Schema 2020-12, of type `object`, without references to elsewhere. A `builtin` tool has the name and the
        schema of one of the server's own (`current_time`, `calculator`, `search_messages`), which agents may name
        without this: it is registered to be described otherwise, disabled, or called only when it was approved.

        The `config` of an `http` tool is `{method, url, headers?, body?, timeout_seconds?}`. `{name}` in `url`, behind
        the host, and in the strings of `body`, which is JSON, stands for an argument, a property of the schema. Values
        of `headers` are write-only, encrypted at rest and shown as `"***"`, which keeps them when it is written; to
        another scheme, host or port they have to be written anew.
        """
        return await tools.create(request.user, data)

    @get(opt=needs(Scope.TOOLS_READ))
    async def list_tools(
        self,
        request: Caller,
        tools: NamedDependency[ToolService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["created_at", "updated_at", "name"]] = "created_at",
        sort_order: SortOrder = "desc",
        enabled: FromQuery[bool | None] = None,
        kind: FromQuery[ToolKind | None] = None,
        mcp_server_id: FromQuery[UUID | None] = None,
        search: FromQuery[str | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[ToolPage]:
        """List tools

        Those that the caller has registered, the newest first unless sorted otherwise.
        """
        wanted = ToolFilter(
            enabled=enabled,
            kind=kind,
            mcp_server_id=mcp_server_id,
            search=None if search is None else checked(search),
            created_after=created_after,
            created_before=created_before,
        )
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await tools.list(request.user, wanted, page))

    @get("/{tool_id:uuid}", opt=needs(Scope.TOOLS_READ))
    async def get_tool(self, request: Caller, tool_id: FromPath[UUID], tools: NamedDependency[ToolService]) -> Tool:
        """Get a tool

        With the schema of its arguments.
        """
        return await tools.get(request.user, tool_id)

    @put("/{tool_id:uuid}", opt=needs(Scope.TOOLS_WRITE) | may_answer(409))
    async def replace_tool(
        self,
        request: Caller,
        tool_id: FromPath[UUID],
        data: JSONBody[ReplaceTool],
        tools: NamedDependency[ToolService],
    ) -> Tool:
        """Replace a tool

        What is absent goes back to its default. Calls that were made already are not affected.
        """
        return await tools.replace(request.user, tool_id, data, expected(request))

    @patch("/{tool_id:uuid}", opt=needs(Scope.TOOLS_WRITE) | may_answer(409))
    async def patch_tool(
        self,
        request: Caller,
        tool_id: FromPath[UUID],
        data: JSONBody[PatchTool],
        tools: NamedDependency[ToolService],
    ) -> Tool:
        """Change a tool

        JSON Merge Patch: what is absent stays, null clears; `schema`, `config` and `metadata` are merged member by
        member. What comes of it must be good as a new tool.
        """
        return await tools.patch(request.user, tool_id, data, expected(request))

    @delete("/{tool_id:uuid}", opt=needs(Scope.TOOLS_WRITE))
    async def delete_tool(self, request: Caller, tool_id: FromPath[UUID], tools: NamedDependency[ToolService]) -> None:
        """Delete a tool

        Agents that name it run without it from then on.
        """
        await tools.delete(request.user, tool_id, expected(request))

    @post("/{tool_id:uuid}/invoke", status_code=200, opt=INVOKE)
    async def invoke_tool(
        self,
        request: Caller,
        tool_id: FromPath[UUID],
        data: JSONBody[InvokeTool],
        tools: NamedDependency[ToolService],
    ) -> ToolOutput:
        """Call a tool

        As a model would, within the tool's own time, of up to 120 s. What goes wrong in the tool is its output, with
        `is_error`; arguments that do not fit the schema are 422, each with its path. Nobody is asked for approval:
        the caller is there. A `client` tool is 409, because there is nothing here to call, as is one that is disabled.

        A repeat with the same `Idempotency-Key` gets the first one's output. Where the server was lost in the middle,
        a repeat three minutes later calls again what may be called twice (`builtin`; GET, HEAD, PUT, DELETE), and for
        all else says that the call was interrupted.
        """
        return await tools.invoke(request.user, tool_id, data, idempotency_key(request))
