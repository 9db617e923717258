"""Agents: create, read, list, change, delete. The canonical example of a resource."""

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET

from ai_agent.domain.agents import (
    Agent,
    AgentFilter,
    AgentPage,
    AgentStatus,
    CreateAgent,
    ModelConfig,
    PatchAgent,
    ReplaceAgent,
)
from ai_agent.domain.errors import Conflict, InvalidFields, NotFound
from ai_agent.domain.fields import merge_patch, new_id, now, to_json
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.domain.validation import field_errors
from ai_agent.services.paging import Pager
from ai_agent.services.sessions import patched_metadata
from ai_agent.storage import agents
from ai_agent.storage.database import Database, UniqueViolation


class AgentService:
    def __init__(self, database: Database, pager: Pager):
        self._database = database
        self._pager = pager

    async def create(self, principal: Principal, wanted: CreateAgent) -> Agent:
        agent = new_agent(wanted)
        with _name_taken(wanted.name):
            async with self._database.unit_of_work() as rows:
                await agents.insert(rows, principal.subject, agent)
        return agent

    async def get(self, principal: Principal, agent_id: UUID) -> Agent:
        return found(await agents.get(self._database.reader, principal.subject, agent_id))

    async def list(self, principal: Principal, wanted: AgentFilter, request: PageRequest) -> AgentPage:
        return await self._pager.page(AgentPage, agents.LIST, principal.subject, wanted, request)

    async def replace(
        self, principal: Principal, agent_id: UUID, wanted: ReplaceAgent, versions: Versions | None = None
    ) -> Agent:
        """Raises PreconditionFailed when the agent is in none of the `versions`; `patch` and `delete`, too."""
        agent = new_agent(wanted)
        agent.id = agent_id
        with _name_taken(wanted.name):
            async with self._database.unit_of_work() as rows:
                found(await agents.get(rows, principal.subject, agent_id, for_update=True)).expect(versions)
                return found(await agents.update(rows, principal.subject, agent))

    async def patch(
        self, principal: Principal, agent_id: UUID, patch: PatchAgent, versions: Versions | None = None
    ) -> Agent:
        with _name_taken(patch.name):
            async with self._database.unit_of_work() as rows:
                agent = found(await agents.get(rows, principal.subject, agent_id, for_update=True))
                agent.expect(versions)
                _apply(agent, patch)
                return found(await agents.update(rows, principal.subject, agent))

    async def delete(self, principal: Principal, agent_id: UUID, versions: Versions | None = None) -> None:
        """Removes the agent. What it said stays; runs that wait for it fail."""
        async with self._database.unit_of_work() as rows:
            found(await agents.get(rows, principal.subject, agent_id, for_update=True)).expect(versions)
            await agents.delete(rows, principal.subject, agent_id)


def new_agent(wanted: CreateAgent) -> Agent:
    at = now()
    return Agent(
        id=new_id(),
        name=wanted.name,
        description=wanted.description,
        system_prompt=wanted.system_prompt,
        model_config=to_json(wanted.model_config),
        tools=to_json(wanted.tools),
        status=AgentStatus.IDLE,
        version=1,
        metadata=to_json(wanted.metadata),
        created_at=at,
        updated_at=at,
    )


def _apply(agent: Agent, patch: PatchAgent) -> None:
    for name in ("name", "description", "system_prompt"):
        if (value := getattr(patch, name)) is not UNSET:
            setattr(agent, name, value)
    if patch.model_config is not UNSET:
        agent.model_config = to_json(_patched_config(agent.model_config, patch.model_config))
    if patch.tools is not UNSET:
        agent.tools = to_json(patch.tools or [])
    agent.metadata = patched_metadata(agent.metadata, patch.metadata)
    agent.updated_at = now()


def _patched_config(current: msgspec.Raw, patch: dict[str, Any] | None) -> ModelConfig:
    if patch is None:
        return ModelConfig()
    merged = merge_patch(msgspec.json.decode(current), patch)
    try:
        return msgspec.convert(merged, ModelConfig)
    except msgspec.ValidationError:
        raise InvalidFields(list(field_errors(merged, ModelConfig, "model_config"))) from None


@contextlib.contextmanager
def _name_taken(name: object) -> Iterator[None]:
    try:
        yield
    except UniqueViolation as error:
        raise Conflict(f"An agent named {name} exists already", details={"field": "name"}) from error


def found(agent: Agent | None) -> Agent:
    if agent is None:
        raise NotFound("Agent not found")
    return agent
