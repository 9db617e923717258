"""Executions as their owners see them; the worker's side is in `leases.py`."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.executions import Execution, ExecutionStatus, OnBusy
from ai_agent.domain.fields import StoredJson
from ai_agent.storage import sessions
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import executions


class Standing(msgspec.Struct, frozen=True):
    """Where a run stands, for those to whom it is told."""

    id: UUID
    session_id: UUID
    agent_id: UUID
    owner_id: str
    status: ExecutionStatus
    epoch: str
    output_message_id: UUID | None
    error: StoredJson
    usage: StoredJson
    queued_at: datetime
    finished_at: datetime | None


class Told(msgspec.Struct, frozen=True):
    """A run of which events may be kept."""

    id: UUID
    session_id: UUID
    agent_id: UUID
    finished_at: datetime | None


class Order(msgspec.Struct, frozen=True):
    """How a run was asked for."""

    owner: str
    on_busy: OnBusy
    timeout_seconds: float | None
    correlation_id: str | None
    callback_url: str | None


class Asked(msgspec.Struct, frozen=True):
    """What of an order a second run takes over."""

    timeout_seconds: float | None
    callback_url: str | None


class Occupant(msgspec.Struct, frozen=True):
    """A run that has not ended, in a session that somebody wants."""

    id: UUID
    agent_id: UUID
    status: ExecutionStatus
    on_busy: OnBusy
    holds_session: bool


class Located(msgspec.Struct, frozen=True):
    id: UUID
    owner_id: str
    session_id: UUID
    agent_id: UUID
    status: ExecutionStatus


_id = executions.c.id == sa.bindparam("execution_id")
_mine = (_id, executions.c.owner_id == sa.bindparam("owner"))
_unfinished = executions.c.finished_at.is_(None)
_COLUMNS = [executions.c[name] for name in (*Execution.__struct_fields__, VERSION)]
_GET = Statement(sa.select(*_COLUMNS).where(*_mine), Execution)
_INSERTED = [
    *Execution.__struct_fields__,
    *("owner_id", "holds_session", "on_busy", "epoch", "timeout_seconds", "correlation_id", "callback_url"),
]
_INSERT: Statement[None] = Statement(sa.insert(executions).values({name: sa.bindparam(name) for name in _INSERTED}))
_OCCUPANTS = Statement(
    sa.select(*[executions.c[name] for name in Occupant.__struct_fields__])
    .where(executions.c.session_id == sa.bindparam("session_id"), _unfinished)
    .order_by(executions.c.id),
    Occupant,
)
_OF_SESSION = Statement(
    sa.select(*_COLUMNS)
    .where(
        executions.c.session_id == sa.bindparam("session_id"),
        executions.c.owner_id == sa.bindparam("owner"),
        executions.c.id > sa.bindparam("after"),
    )
    .order_by(executions.c.id)
    .limit(sa.bindparam("row_limit", type_=sa.Integer)),
    Execution,
)
_located = sa.select(*[executions.c[name] for name in Located.__struct_fields__]).where(_id)
_LOCATE = Statement(_located, Located)
_LOCK = Statement(_located.with_for_update(), Located)
_ASKED = Statement(sa.select(*[executions.c[name] for name in Asked.__struct_fields__]).where(_id), Asked)
_STATUS = Statement(sa.select(executions.c.status).where(_id), ExecutionStatus)
_STANDING = Statement(sa.select(*(executions.c[name] for name in Standing.__struct_fields__)).where(_id), Standing)
_TOLD = Statement(
    sa.select(*(executions.c[name] for name in Told.__struct_fields__)).where(
        among(executions.c.session_id, sa.bindparam("ids")),
        executions.c.owner_id == sa.bindparam("owner"),
        sa.or_(_unfinished, executions.c.finished_at > sa.bindparam("after")),
    ),
    Told,
)
_REQUEST_CANCEL = Statement(
    sa.update(executions)
    .where(_id, _unfinished)
    .values(
        cancel_requested=True,
        rolls_back=sa.or_(executions.c.rolls_back, sa.bindparam("rolls_back", type_=sa.Boolean)),
    )
    .returning(executions.c.status),
    ExecutionStatus,
)
_EPOCH = Statement(sa.select(executions.c.epoch).where(*_mine), str)
_OWNER = Statement(sa.select(executions.c.owner_id).where(executions.c.id == sa.bindparam("execution_id")), str)


async def get(connection: Reader, owner: str, execution_id: UUID) -> Execution | None:
    return await connection.first(_GET, execution_id=execution_id, owner=owner)


async def insert(connection: Connection, execution: Execution, order: Order, *, holds_session: bool) -> None:
    """Raises UniqueViolation when it is to hold a session that another one holds."""
    values = msgspec.structs.asdict(execution) | {"error": None, "usage": None} | msgspec.structs.asdict(order)
    epoch = secrets.token_hex(4)
    await connection.run(_INSERT, **values, owner_id=order.owner, holds_session=holds_session, epoch=epoch)


async def asked(connection: Connection, execution_id: UUID) -> Asked:
    return await connection.first(_ASKED, execution_id=execution_id) or Asked(None, None)


async def lock(connection: Connection, execution_id: UUID) -> Located | None:
    """Locks the run's session and then the run, in the order in which everybody does; None when it is gone."""
    found = await connection.first(_LOCATE, execution_id=execution_id)
    if found is None:
        return None
    await sessions.lock(connection, found.owner_id, [found.session_id])
    return await connection.first(_LOCK, execution_id=execution_id)


async def occupants(connection: Connection, session_id: UUID) -> list[Occupant]:
    """The runs of a session that have not ended, oldest first; the caller locks the session."""
    return await connection.all(_OCCUPANTS, session_id=session_id)


async def of_session(reader: Reader, owner: str, session_id: UUID, after: UUID, limit: int) -> list[Execution]:
    """Those behind an id, oldest first."""
    return await reader.all(_OF_SESSION, session_id=session_id, owner=owner, after=after, row_limit=limit)


async def request_cancel(
    connection: Connection, execution_id: UUID, *, rolls_back: bool = False
) -> ExecutionStatus | None:
    """Marks the run, so that whoever holds it stops; None when it has ended. With `rolls_back` its messages go, too."""
    return await connection.first(_REQUEST_CANCEL, execution_id=execution_id, rolls_back=rolls_back)


async def status(reader: Reader, execution_id: UUID) -> ExecutionStatus | None:
    """None when the run is gone."""
    return await reader.first(_STATUS, execution_id=execution_id)


async def standing(reader: Reader, execution_id: UUID) -> Standing | None:
    """Where the run stands, whoever owns it; None when it is gone."""
    return await reader.first(_STANDING, execution_id=execution_id)


async def told(connection: Connection, owner: str, session_ids: Sequence[UUID], after: datetime) -> list[Told]:
    """The runs of these sessions that live, or have ended after a time."""
    return await connection.all(_TOLD, ids=list(session_ids), owner=owner, after=after)


async def epoch(connection: Reader, owner: str, execution_id: UUID) -> str | None:
    """The epoch of the execution's event log, None when it is not the owner's."""
    return await connection.first(_EPOCH, execution_id=execution_id, owner=owner)


async def owner(reader: Reader, execution_id: UUID) -> str | None:
    """Whose it is; None when it is gone."""
    return await reader.first(_OWNER, execution_id=execution_id)
