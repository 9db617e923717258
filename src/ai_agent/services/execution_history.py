"""Executions to look back on: one of them, lists, and an agent's metrics."""

import asyncio
import contextlib
from datetime import timedelta
from uuid import UUID

from ai_agent.domain.errors import NotFound
from ai_agent.domain.execution_history import AgentMetrics, ExecutionFilter, ExecutionPage, Window, added_up
from ai_agent.domain.executions import Execution
from ai_agent.domain.fields import now
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.services.execution_streams import ExecutionStreams
from ai_agent.services.executions import found
from ai_agent.services.paging import Pager
from ai_agent.storage import agents, execution_history, executions
from ai_agent.storage.database import Database


class ExecutionHistory:
    def __init__(self, database: Database, pager: Pager, streams: ExecutionStreams):
        self._database = database
        self._pager = pager
        self._streams = streams

    async def get(self, principal: Principal, execution_id: UUID, *, wait: float = 0) -> Execution:
        """As it is now; of a run that has not ended, as it is when it ends, or after `wait` seconds, or at a drain."""
        execution = await self._get(principal, execution_id)
        if not wait or execution.finished_at is not None:
            return execution
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._streams.ended(execution_id)
        return await self._get(principal, execution_id)

    async def _get(self, principal: Principal, execution_id: UUID) -> Execution:
        return found(await executions.get(self._database.reader, principal.subject, execution_id))

    async def list(self, principal: Principal, wanted: ExecutionFilter, request: PageRequest) -> ExecutionPage:
        return await self._pager.page(ExecutionPage, execution_history.LIST, principal.subject, wanted, request)

    async def list_of_agent(
        self, principal: Principal, agent_id: UUID, wanted: ExecutionFilter, request: PageRequest
    ) -> ExecutionPage:
        """Raises NotFound when there is no such agent, whatever it has once done."""
        await self._check_agent(principal, agent_id)
        return await self.list(principal, wanted, request)

    async def metrics(self, principal: Principal, agent_id: UUID, window: Window) -> AgentMetrics:
        """Raises NotFound when there is no such agent."""
        await self._check_agent(principal, agent_id)
        starts, seconds = window.starts(now()), window.bucket_seconds
        until = starts[-1] + timedelta(seconds=seconds)
        totals = await execution_history.totals(
            self._database.patient,
            principal.subject,
            agent_id,
            since=starts[0],
            until=until,
            bucket_seconds=seconds,
        )
        return added_up(window, starts, totals)

    async def _check_agent(self, principal: Principal, agent_id: UUID) -> None:
        if not await agents.exists(self._database.reader, principal.subject, agent_id):
            raise NotFound("Agent not found")
