"""`/agents`."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from ai_agent.api.answers import expected
from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, Search, SortOrder
from ai_agent.domain.agents import (
    Agent,
    AgentFilter,
    AgentPage,
    AgentStatus,
    AgentVersionFilter,
    AgentVersionPage,
    CreateAgent,
    PatchAgent,
    ReplaceAgent,
)
from ai_agent.domain.identity import Scope
from ai_agent.domain.pages import PageRequest
from ai_agent.services.agents import AgentService


class AgentController(Controller):
    path = "/agents"
    tags = ["Agents"]

    @post(opt=needs(Scope.AGENTS_WRITE))
    async def create_agent(
        self, request: Caller, data: JSONBody[CreateAgent], agents: NamedDependency[AgentService]
    ) -> Agent:
        """Create an agent"""
        return await agents.create(request.user, data)

    @get(opt=needs(Scope.AGENTS_READ))
    async def list_agents(
        self,
        request: Caller,
        agents: NamedDependency[AgentService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["created_at", "updated_at", "name"]] = "created_at",
        sort_order: SortOrder = "desc",
        status: FromQuery[AgentStatus | None] = None,
        search: Search = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[AgentPage]:
        """List agents"""
        wanted = AgentFilter(status=status, search=search, created_after=created_after, created_before=created_before)
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await agents.list(request.user, wanted, page))

    @get("/{agent_id:uuid}", opt=needs(Scope.AGENTS_READ))
    async def get_agent(
        self, request: Caller, agent_id: FromPath[UUID], agents: NamedDependency[AgentService]
    ) -> Agent:
        """Get an agent"""
        return await agents.get(request.user, agent_id)

    @put("/{agent_id:uuid}", opt=needs(Scope.AGENTS_WRITE))
    async def replace_agent(
        self,
        request: Caller,
        agent_id: FromPath[UUID],
        data: JSONBody[ReplaceAgent],
        agents: NamedDependency[AgentService],
    ) -> Agent:
        """Replace an agent"""
        return await agents.replace(request.user, agent_id, data, expected(request))

    @patch("/{agent_id:uuid}", opt=needs(Scope.AGENTS_WRITE))
    async def patch_agent(
        self,
        request: Caller,
        agent_id: FromPath[UUID],
        data: JSONBody[PatchAgent],
        agents: NamedDependency[AgentService],
    ) -> Agent:
        """Change an agent"""
        return await agents.patch(request.user, agent_id, data, expected(request))

    @delete("/{agent_id:uuid}", opt=needs(Scope.AGENTS_WRITE))
    async def delete_agent(
        self, request: Caller, agent_id: FromPath[UUID], agents: NamedDependency[AgentService]
    ) -> None:
        """Delete an agent"""
        await agents.delete(request.user, agent_id, expected(request))

    @get("/{agent_id:uuid}/versions", opt=needs(Scope.AGENTS_READ))
    async def list_agent_versions(
        self,
        request: Caller,
        agent_id: FromPath[UUID],
        agents: NamedDependency[AgentService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_order: SortOrder = "desc",
    ) -> Response[AgentVersionPage]:
        """List an agent's versions"""
        page = PageRequest(limit, cursor, offset, include_total, "version", sort_order == "desc")
        return linked(request, await agents.versions(request.user, AgentVersionFilter(agent_id=agent_id), page))

    @post("/{agent_id:uuid}/versions/{number:int}/restore", status_code=200, opt=needs(Scope.AGENTS_WRITE))
    async def restore_agent_version(
        self, request: Caller, agent_id: FromPath[UUID], number: FromPath[int], agents: NamedDependency[AgentService]
    ) -> Agent:
        """Restore an agent's version as its newest"""
        return await agents.restore(request.user, agent_id, number)
