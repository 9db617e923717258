"""Agents: create, read, list, change, delete. The canonical example of a resource."""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET

from ai_agent.domain.agents import (
    API_KEY,
    Agent,
    AgentContent,
    AgentFilter,
    AgentPage,
    AgentStatus,
    AgentVersionFilter,
    AgentVersionPage,
    CreateAgent,
    ModelConfig,
    PatchAgent,
    ReplaceAgent,
)
from ai_agent.domain.errors import FieldError, InvalidFields, NotFound
from ai_agent.domain.events import EventType
from ai_agent.domain.fields import KEPT_SECRET, StoredJson, merge_patch, new_id, now, to_json
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.domain.validation import read_as
from ai_agent.realtime.announcements import Announcements
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_fields import NO_SECRETS, SecretFields, check_kept
from ai_agent.services.names import name_taken
from ai_agent.services.paging import Pager
from ai_agent.services.sessions import patched_metadata
from ai_agent.storage import agents
from ai_agent.storage.database import Connection, Database

Found = TypeVar("Found", Agent, AgentContent)

MAX_VERSION = 2**31 - 1


class AgentService:
    def __init__(
        self,
        database: Database,
        pager: Pager,
        announcements: Announcements,
        secrets: SecretFields,
        guard: OutboundGuard,
    ):
        self._database = database
        self._announce = announcements
        self._pager = pager
        self._secrets = secrets
        self._guard = guard

    async def create(self, principal: Principal, wanted: CreateAgent) -> Agent:
        """Raises Conflict for a name that is taken, InvalidFields; `replace` and `patch`, too."""
        agent = new_agent(wanted)
        agent.model_config, secrets = self._stored(agent.id, wanted.model_config, NO_SECRETS)
        async with self._database.unit_of_work() as rows:
            with name_taken("An agent", agent.name):
                await agents.insert(rows, principal.subject, agent, secrets)
            self._announce.agent(rows, EventType.AGENT_CREATED, agent)
        return agent

    async def get(self, principal: Principal, agent_id: UUID) -> Agent:
        return found(await agents.get(self._database.reader, principal.subject, agent_id))

    async def list(self, principal: Principal, wanted: AgentFilter, request: PageRequest) -> AgentPage:
        return await self._pager.page(AgentPage, agents.LIST, principal.subject, wanted, request)

    async def replace(
        self, principal: Principal, agent_id: UUID, wanted: ReplaceAgent, versions: Versions | None = None
    ) -> Agent:
        """Raises PreconditionFailed when the agent is in none of the `versions`; `patch` and `delete`, too."""

        def replaced(content: AgentContent) -> None:
            self._set_config(content, wanted.model_config)
            content.name = wanted.name
            content.description = wanted.description
            content.system_prompt = wanted.system_prompt
            content.tools = to_json(wanted.tools)
            content.metadata = to_json(wanted.metadata)

        return await self._change(principal, agent_id, replaced, versions)

    async def patch(
        self, principal: Principal, agent_id: UUID, patch: PatchAgent, versions: Versions | None = None
    ) -> Agent:
        def patched(content: AgentContent) -> None:
            if patch.model_config is not UNSET:
                self._set_config(content, _patched_config(content.model_config, patch.model_config))
            for name in ("name", "description", "system_prompt"):
                if (value := getattr(patch, name)) is not UNSET:
                    setattr(content, name, value)
            if patch.tools is not UNSET:
                content.tools = to_json(patch.tools or [])
            content.metadata = patched_metadata(content.metadata, patch.metadata)

        return await self._change(principal, agent_id, patched, versions)

    async def _change(
        self, principal: Principal, agent_id: UUID, change: Callable[[AgentContent], None], versions: Versions | None
    ) -> Agent:
        async with self._database.unit_of_work() as rows:
            content = found(await agents.content(rows, principal.subject, agent_id, for_update=True))
            content.expect(versions)
            before = _comparable(content)
            change(content)
            if _comparable(content) == before:
                return found(await agents.get(rows, principal.subject, agent_id))
            return await self._next_version(rows, principal.subject, content)

    async def delete(self, principal: Principal, agent_id: UUID, versions: Versions | None = None) -> None:
        """Removes the agent with its versions. What it said stays; runs that wait for it fail."""
        async with self._database.unit_of_work() as rows:
            found(await agents.get(rows, principal.subject, agent_id, for_update=True)).expect(versions)
            await agents.delete(rows, principal.subject, agent_id)
            self._announce.agent_deleted(rows, agent_id)

    async def versions(
        self, principal: Principal, wanted: AgentVersionFilter, request: PageRequest
    ) -> AgentVersionPage:
        """What the agent was, and is. Raises NotFound when there is no such agent."""
        page = await self._pager.page(AgentVersionPage, agents.VERSIONS, principal.subject, wanted, request)
        if not page.items:
            found(await agents.get(self._database.reader, principal.subject, wanted.agent_id))
        return page

    async def restore(self, principal: Principal, agent_id: UUID, number: int) -> Agent:
        """Makes an old version, with its key, the newest. Raises NotFound, and Conflict for a name taken meanwhile."""
        async with self._database.unit_of_work() as rows:
            known = 0 < number <= MAX_VERSION
            content = await agents.at_version(rows, principal.subject, agent_id, number) if known else None
            if content is None:
                raise NotFound("Version not found")
            return await self._next_version(rows, principal.subject, content)

    async def _next_version(self, rows: Connection, owner: str, content: AgentContent) -> Agent:
        with name_taken("An agent", content.name):
            agent = found(await agents.update(rows, owner, content, now()))
        self._announce.agent(rows, EventType.AGENT_UPDATED, agent)
        return agent

    def _set_config(self, content: AgentContent, wanted: ModelConfig) -> None:
        before = msgspec.json.decode(content.model_config, type=ModelConfig)
        check_kept({API_KEY: wanted.api_key}, moved=wanted.destination != before.destination)
        content.model_config, content.secrets = self._stored(content.id, wanted, content.secrets)

    def _stored(self, agent_id: UUID, wanted: ModelConfig, present: StoredJson) -> tuple[StoredJson, StoredJson]:
        """The configuration as it is stored and shown, and the sealed secrets."""
        if wanted.base_url is not None and (fault := self._guard.fault(wanted.base_url)):
            raise InvalidFields([FieldError("model_config.base_url", fault)])
        secrets = self._secrets.seal(agent_id, {API_KEY: wanted.api_key}, present)
        shown = msgspec.structs.replace(wanted, api_key=KEPT_SECRET if wanted.api_key else None)
        return to_json(shown), secrets


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


def _comparable(content: AgentContent) -> dict[str, Any]:
    """Its values, whatever the order and spacing in which a database keeps JSON."""
    fields = msgspec.structs.asdict(content).items()
    return {name: msgspec.json.decode(v) if isinstance(v, msgspec.Raw) else v for name, v in fields}


def _patched_config(current: StoredJson, patch: dict[str, Any] | None) -> ModelConfig:
    if patch is None:
        return ModelConfig()
    return read_as(merge_patch(msgspec.json.decode(current), patch), ModelConfig, "model_config")


def found(agent: Found | None) -> Found:
    if agent is None:
        raise NotFound("Agent not found")
    return agent
