"""`/executions` and what `/agents/{agent_id}` has done: to look at."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.domain.execution_history import AgentMetrics, ExecutionFilter, ExecutionPage, Window
from ai_agent.domain.executions import Execution, ExecutionStatus
from ai_agent.domain.identity import Scope
from ai_agent.domain.pages import PageRequest
from ai_agent.services.execution_history import ExecutionHistory

SortBy = FromQuery[Literal["queued_at"]]
Wait = Annotated[int, QueryParameter(ge=0, le=60)]


class ExecutionHistoryController(Controller):
    tags = ["Executions"]

    @get("/executions", opt=needs(Scope.AGENTS_EXECUTE))
    async def list_executions(
        self,
        request: Caller,
        history: NamedDependency[ExecutionHistory],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: SortBy = "queued_at",
        sort_order: SortOrder = "desc",
        status: FromQuery[ExecutionStatus | None] = None,
        agent_id: FromQuery[UUID | None] = None,
        session_id: FromQuery[UUID | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[ExecutionPage]:
        """List executions

        Runs of all agents of the caller, also of those that were deleted, the newest first unless sorted otherwise.
        """
        wanted = ExecutionFilter(
            status=status,
            agent_id=agent_id,
            session_id=session_id,
            created_after=created_after,
            created_before=created_before,
        )
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await history.list(request.user, wanted, page))

    @get("/executions/{execution_id:uuid}", opt=needs(Scope.AGENTS_EXECUTE))
    async def get_execution(
        self,
        request: Caller,
        execution_id: FromPath[UUID],
        history: NamedDependency[ExecutionHistory],
        wait: Wait = 0,
    ) -> Execution:
        """Get an execution

        One run of an agent: where it stands, what it used, and why it failed if it did. With `wait` the answer comes
        when the run has ended, or after so many seconds with what it is then.
        """
        return await history.get(request.user, execution_id, wait=wait)

    @get("/agents/{agent_id:uuid}/executions", opt=needs(Scope.AGENTS_EXECUTE))
    async def list_agent_executions(
        self,
        request: Caller,
        agent_id: FromPath[UUID],
        history: NamedDependency[ExecutionHistory],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: SortBy = "queued_at",
        sort_order: SortOrder = "desc",
        status: FromQuery[ExecutionStatus | None] = None,
        session_id: FromQuery[UUID | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[ExecutionPage]:
        """List the executions of an agent

        Its history, the newest first unless sorted otherwise.
        """
        wanted = ExecutionFilter(
            status=status,
            agent_id=agent_id,
            session_id=session_id,
            created_after=created_after,
            created_before=created_before,
        )
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await history.list_of_agent(request.user, agent_id, wanted, page))

    @get("/agents/{agent_id:uuid}/metrics", opt=needs(Scope.AGENTS_READ))
    async def get_agent_metrics(
        self,
        request: Caller,
        agent_id: FromPath[UUID],
        history: NamedDependency[ExecutionHistory],
        window: FromQuery[Window] = Window.DAY,
    ) -> AgentMetrics:
        """Get the metrics of an agent

        What the runs add up to that were asked for in the window, which ends with the present minute, and a series of
        all its buckets: 5 minutes of `1h`, an hour of `24h`, 6 hours of `7d`, a day of `30d`. A cancelled run is
        neither a success nor a failure, and its latency tells nothing; its tokens count. Percentiles are by nearest
        rank, in milliseconds from being asked for.
        """
        return await history.metrics(request.user, agent_id, window)
