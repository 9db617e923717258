"""Agents of an owner, and the versions of each."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.agents import Agent, AgentContent, AgentStatus, AgentVersion
from ai_agent.domain.executions import ExecutionStatus
from ai_agent.domain.fields import StoredJson
from ai_agent.domain.search import fold
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.keyset import Listing, containing
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import agent_versions, agents, executions

LIST = Listing(agents, Agent, {"search": containing(agents.c.search_text)})
VERSIONS = Listing(agent_versions, AgentVersion, identity="agent_id")

_COLUMNS = [agents.c[name] for name in (*Agent.__struct_fields__, VERSION)]
_WRITTEN = AgentContent.__struct_fields__[1:]
_MINE = (agents.c.id == sa.bindparam("agent_id"), agents.c.owner_id == sa.bindparam("owner"))
_GET = Statement(sa.select(*_COLUMNS).where(*_MINE), Agent)
_EXISTS = Statement(sa.select(agents.c.id).where(*_MINE), UUID)
_GET_FOR_UPDATE = Statement(sa.select(*_COLUMNS).where(*_MINE).with_for_update(), Agent)
_CONTENT = sa.select(agents.c.id, *(agents.c[name] for name in (*_WRITTEN, VERSION))).where(*_MINE)
_GET_CONTENT = Statement(_CONTENT, AgentContent)
_GET_CONTENT_FOR_UPDATE = Statement(_CONTENT.with_for_update(), AgentContent)
_AT_VERSION = Statement(
    sa.select(agent_versions.c.agent_id.label("id"), *(agent_versions.c[name] for name in _WRITTEN)).where(
        agent_versions.c.agent_id == sa.bindparam("agent_id"),
        agent_versions.c.version == sa.bindparam("at_version"),
        agent_versions.c.owner_id == sa.bindparam("owner"),
    ),
    AgentContent,
)
_OWN = ("secrets", "owner_id", "search_text")
_INSERT: Statement[None] = Statement(
    sa.insert(agents).values({name: sa.bindparam(name) for name in [*Agent.__struct_fields__, *_OWN]})
)
_UPDATE = Statement(
    sa.update(agents)
    .where(*_MINE)
    .values(
        {name: sa.bindparam(name, type_=agents.c[name].type) for name in (*_WRITTEN, "updated_at", "search_text")}
        | {"version": agents.c.version + 1, "row_version": agents.c.row_version + 1}
    )
    .returning(*_COLUMNS),
    Agent,
)
_KEEP_VERSION: Statement[None] = Statement(
    sa.insert(agent_versions).from_select(
        ["agent_id", "version", "owner_id", *_WRITTEN, "created_at"],
        sa.select(
            agents.c.id,
            agents.c.version,
            agents.c.owner_id,
            *(agents.c[name] for name in _WRITTEN),
            agents.c.updated_at,
        ).where(*_MINE),
    )
)
_DELETE: Statement[None] = Statement(sa.delete(agents).where(*_MINE))


def _has(*statuses: ExecutionStatus) -> "sa.Exists":
    return sa.exists().where(
        executions.c.agent_id == sa.bindparam("agent_id"),
        sa.or_(*(executions.c.status == status.value for status in statuses)),
    )


_LOCK = Statement(sa.select(agents.c.id).where(agents.c.id == sa.bindparam("agent_id")).with_for_update(), UUID)
_status = sa.case(
    (_has(ExecutionStatus.QUEUED, ExecutionStatus.RUNNING), AgentStatus.PROCESSING.value),
    (_has(ExecutionStatus.WAITING), AgentStatus.WAITING.value),
    else_=sa.bindparam("otherwise", type_=sa.String),
)
_SET_STATUS = Statement(
    sa.update(agents)
    .where(agents.c.id == sa.bindparam("agent_id"), agents.c.status != _status)
    .values(status=_status, row_version=agents.c.row_version + 1)
    .returning(*_COLUMNS),
    Agent,
)
_OWNER = Statement(sa.select(agents.c.owner_id).where(agents.c.id == sa.bindparam("agent_id")), str)


async def get(connection: Reader, owner: str, agent_id: UUID, *, for_update: bool = False) -> Agent | None:
    statement = _GET_FOR_UPDATE if for_update else _GET
    return await connection.first(statement, agent_id=agent_id, owner=owner)


async def exists(connection: Reader, owner: str, agent_id: UUID) -> bool:
    return await connection.first(_EXISTS, agent_id=agent_id, owner=owner) is not None


async def content(connection: Reader, owner: str, agent_id: UUID, *, for_update: bool = False) -> AgentContent | None:
    statement = _GET_CONTENT_FOR_UPDATE if for_update else _GET_CONTENT
    return await connection.first(statement, agent_id=agent_id, owner=owner)


async def at_version(connection: Reader, owner: str, agent_id: UUID, version: int) -> AgentContent | None:
    return await connection.first(_AT_VERSION, agent_id=agent_id, at_version=version, owner=owner)


async def insert(connection: Connection, owner: str, agent: Agent, secrets: StoredJson) -> None:
    """Stores the agent and its first version. Raises UniqueViolation when the owner has an agent of this name."""
    own = {"secrets": secrets, "owner_id": owner, "search_text": _searched(agent)}
    await connection.run(_INSERT, **msgspec.structs.asdict(agent), **own)
    await connection.run(_KEEP_VERSION, agent_id=agent.id, owner=owner)


async def update(connection: Connection, owner: str, wanted: AgentContent, at: datetime) -> Agent | None:
    """Makes it the agent's next version. Raises UniqueViolation when the owner has another agent of this name."""
    values = msgspec.structs.asdict(wanted)
    agent_id = values.pop("id")
    values |= {"updated_at": at, "search_text": _searched(wanted)}
    agent = await connection.first(_UPDATE, agent_id=agent_id, owner=owner, **values)
    if agent is not None:
        await connection.run(_KEEP_VERSION, agent_id=agent_id, owner=owner)
    return agent


def _searched(agent: Agent | AgentContent) -> str:
    return fold(f"{agent.name}\n{agent.description or ''}")


async def delete(connection: Connection, owner: str, agent_id: UUID) -> None:
    await connection.run(_DELETE, agent_id=agent_id, owner=owner)


async def lock(connection: Connection, agent_ids: Iterable[UUID]) -> None:
    """In one order, so that two who lock several never wait for each other."""
    for agent_id in sorted(set(agent_ids)):
        await connection.first(_LOCK, agent_id=agent_id)


async def set_status(connection: Connection, agent_id: UUID, otherwise: AgentStatus) -> Agent | None:
    """`processing` or `waiting` while a run of the agent is, else `otherwise`; the agent when that was not so."""
    # Locked by a statement of its own: of two runs that end together, the second looks when the first has committed.
    await connection.first(_LOCK, agent_id=agent_id)
    return await connection.first(_SET_STATUS, agent_id=agent_id, otherwise=otherwise)


async def owner(reader: Reader, agent_id: UUID) -> str | None:
    """Whose it is; None when it is gone."""
    return await reader.first(_OWNER, agent_id=agent_id)
