"""`/mcp-servers`."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from ai_agent.api.answers import expected
from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.idempotency import LEASED
from ai_agent.api.openapi import may_answer
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.domain.identity import Scope
from ai_agent.domain.mcp_servers import (
    CreateMcpServer,
    McpServer,
    McpServerFilter,
    McpServerHealth,
    McpServerPage,
    McpServerStatus,
    McpServerTest,
    McpSync,
    PatchMcpServer,
    ReplaceMcpServer,
    Transport,
)
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.search import checked
from ai_agent.domain.tools import ToolFilter, ToolKind, ToolPage
from ai_agent.services.mcp_servers import McpServerService
from ai_agent.services.tools import ToolService


class McpServerController(Controller):
    path = "/mcp-servers"
    tags = ["MCP servers"]

    @post(opt=needs(Scope.MCP_WRITE))
    async def create_mcp_server(
        self, request: Caller, data: JSONBody[CreateMcpServer], mcp_servers: NamedDependency[McpServerService]
    ) -> McpServer:
        """Register an MCP server

        At an `endpoint`, or as one of the commands that the operator's file names. It need not be there: it is asked in
        the background from now on, and its tools come with the first sync. Secrets in `authentication` are encrypted
        and shown as `"***"`.
        """
        return await mcp_servers.create(request.user, data)

    @get(opt=needs(Scope.MCP_READ))
    async def list_mcp_servers(
        self,
        request: Caller,
        mcp_servers: NamedDependency[McpServerService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["created_at", "updated_at", "name"]] = "created_at",
        sort_order: SortOrder = "desc",
        enabled: FromQuery[bool | None] = None,
        status: FromQuery[McpServerStatus | None] = None,
        transport: FromQuery[Transport | None] = None,
        search: FromQuery[str | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[McpServerPage]:
        """List MCP servers

        The newest first unless sorted otherwise.
        """
        wanted = McpServerFilter(
            enabled=enabled,
            status=status,
            transport=transport,
            search=None if search is None else checked(search),
            created_after=created_after,
            created_before=created_before,
        )
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await mcp_servers.list(request.user, wanted, page))

    @post("/test", status_code=200, opt=needs(Scope.MCP_WRITE) | LEASED)
    async def test_mcp_server(
        self, request: Caller, data: JSONBody[CreateMcpServer], mcp_servers: NamedDependency[McpServerService]
    ) -> McpServerTest:
        """Try an MCP server

        Connects and lists its tools; nothing is saved. What the server does wrong is told in `error`.
        """
        return await mcp_servers.test(request.user, data)

    @get("/{mcp_server_id:uuid}", opt=needs(Scope.MCP_READ))
    async def get_mcp_server(
        self, request: Caller, mcp_server_id: FromPath[UUID], mcp_servers: NamedDependency[McpServerService]
    ) -> McpServer:
        """Get an MCP server

        With how it was when it was asked last.
        """
        return await mcp_servers.get(request.user, mcp_server_id)

    @put("/{mcp_server_id:uuid}", opt=needs(Scope.MCP_WRITE) | may_answer(409))
    async def replace_mcp_server(
        self,
        request: Caller,
        mcp_server_id: FromPath[UUID],
        data: JSONBody[ReplaceMcpServer],
        mcp_servers: NamedDependency[McpServerService],
    ) -> McpServer:
        """Replace an MCP server

        What is absent goes back to its default. A secret written as `"***"` is kept, unless it would go to another
        address.
        """
        return await mcp_servers.replace(request.user, mcp_server_id, data, expected(request))

    @patch("/{mcp_server_id:uuid}", opt=needs(Scope.MCP_WRITE) | may_answer(409))
    async def patch_mcp_server(
        self,
        request: Caller,
        mcp_server_id: FromPath[UUID],
        data: JSONBody[PatchMcpServer],
        mcp_servers: NamedDependency[McpServerService],
    ) -> McpServer:
        """Change an MCP server

        JSON Merge Patch: what is absent stays, null clears; `authentication` and `metadata` are merged member by
        member. What comes of it must be good as a new server.
        """
        return await mcp_servers.patch(request.user, mcp_server_id, data, expected(request))

    @delete("/{mcp_server_id:uuid}", opt=needs(Scope.MCP_WRITE))
    async def delete_mcp_server(
        self, request: Caller, mcp_server_id: FromPath[UUID], mcp_servers: NamedDependency[McpServerService]
    ) -> None:
        """Delete an MCP server

        With its tools. Agents that name them run without them from then on.
        """
        await mcp_servers.delete(request.user, mcp_server_id, expected(request))

    @post("/{mcp_server_id:uuid}/sync", status_code=200, opt=needs(Scope.MCP_WRITE) | LEASED | may_answer(409, 503))
    async def sync_mcp_server(
        self, request: Caller, mcp_server_id: FromPath[UUID], mcp_servers: NamedDependency[McpServerService]
    ) -> McpSync:
        """Sync the tools of an MCP server

        Brings the tools here to those that the server lists now, and tells each that was added, changed or removed, or
        that cannot be used. A removed tool is disabled. `enabled` and `requires_approval` stay as they were set. A name
        that is taken gets the server's before it, as `server__tool`.
        """
        return await mcp_servers.sync(request.user, mcp_server_id)

    @get("/{mcp_server_id:uuid}/health", opt=needs(Scope.MCP_READ))
    async def get_mcp_server_health(
        self, request: Caller, mcp_server_id: FromPath[UUID], mcp_servers: NamedDependency[McpServerService]
    ) -> McpServerHealth:
        """Check an MCP server

        Asks it now, and writes down what came of it.
        """
        return await mcp_servers.health(request.user, mcp_server_id)

    @get("/{mcp_server_id:uuid}/tools", opt=needs(Scope.MCP_READ))
    async def list_mcp_server_tools(
        self,
        request: Caller,
        mcp_server_id: FromPath[UUID],
        mcp_servers: NamedDependency[McpServerService],
        tools: NamedDependency[ToolService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["created_at", "updated_at", "name"]] = "created_at",
        sort_order: SortOrder = "desc",
        enabled: FromQuery[bool | None] = None,
    ) -> Response[ToolPage]:
        """List the tools of an MCP server

        As the last sync left them, those that were removed since, too.
        """
        await mcp_servers.get(request.user, mcp_server_id)
        wanted = ToolFilter(kind=ToolKind.MCP, mcp_server_id=mcp_server_id, enabled=enabled)
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await tools.list(request.user, wanted, page))
