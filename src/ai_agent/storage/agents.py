"""Agents of an owner."""

from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.agents import Agent, AgentStatus
from ai_agent.domain.executions import ExecutionStatus
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.keyset import Listing
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import agents, executions

LIST = Listing(agents, Agent)

_COLUMNS = [agents.c[name] for name in (*Agent.__struct_fields__, VERSION)]
_JSON = ("model_config", "tools", "metadata")
_CHANGEABLE = ("name", "description", "system_prompt", *_JSON, "updated_at")
_MINE = (agents.c.id == sa.bindparam("agent_id"), agents.c.owner_id == sa.bindparam("owner"))
_GET = Statement(sa.select(*_COLUMNS).where(*_MINE), Agent)
_GET_FOR_UPDATE = Statement(sa.select(*_COLUMNS).where(*_MINE).with_for_update(), Agent)
_INSERT: Statement[None] = Statement(
    sa.insert(agents).values({name: sa.bindparam(name) for name in [*Agent.__struct_fields__, "owner_id"]})
)
_UPDATE = Statement(
    sa.update(agents)
    .where(*_MINE)
    .values(
        {name: sa.bindparam(name, type_=agents.c[name].type) for name in _CHANGEABLE}
        | {"version": agents.c.version + 1, "row_version": agents.c.row_version + 1}
    )
    .returning(*_COLUMNS),
    Agent,
)
_DELETE: Statement[None] = Statement(sa.delete(agents).where(*_MINE))
_busy = sa.exists().where(
    executions.c.agent_id == sa.bindparam("agent_id"),
    sa.or_(
        executions.c.status == ExecutionStatus.QUEUED.value,
        executions.c.status == ExecutionStatus.RUNNING.value,
    ),
)
_SET_STATUS: Statement[None] = Statement(
    sa.update(agents)
    .where(agents.c.id == sa.bindparam("agent_id"))
    .values(
        status=sa.case((_busy, AgentStatus.PROCESSING.value), else_=sa.bindparam("otherwise", type_=sa.String)),
        row_version=agents.c.row_version + 1,
    )
)


async def get(connection: Reader, owner: str, agent_id: UUID, *, for_update: bool = False) -> Agent | None:
    statement = _GET_FOR_UPDATE if for_update else _GET
    return await connection.first(statement, agent_id=agent_id, owner=owner)


async def insert(connection: Connection, owner: str, agent: Agent) -> None:
    """Raises UniqueViolation when the owner has an agent of this name."""
    await connection.run(_INSERT, **_values(agent), owner_id=owner)


async def update(connection: Connection, owner: str, agent: Agent) -> Agent | None:
    """Raises UniqueViolation when the owner has another agent of this name."""
    values = {name: value for name, value in _values(agent).items() if name in _CHANGEABLE}
    return await connection.first(_UPDATE, agent_id=agent.id, owner=owner, **values)


async def delete(connection: Connection, owner: str, agent_id: UUID) -> bool:
    return await connection.run(_DELETE, agent_id=agent_id, owner=owner) == 1


async def set_status(connection: Connection, agent_id: UUID, otherwise: AgentStatus) -> None:
    """`processing` while a run of the agent is live, else `otherwise`."""
    await connection.run(_SET_STATUS, agent_id=agent_id, otherwise=otherwise)


def _values(agent: Agent) -> dict[str, object]:
    return msgspec.structs.asdict(agent)
