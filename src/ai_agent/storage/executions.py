"""Executions and their events. A worker's writes name the fence it claimed: with an old one they change nothing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ai_agent.domain.executions import Execution
from ai_agent.domain.fields import StoredJson
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import Time, executions


class seconds_from_now(FunctionElement[datetime]):  # noqa: N801  # a SQL function's name
    """The database's time and so many seconds: leases are compared on one clock, whatever the nodes' clocks say."""

    type = Time
    inherit_cache = True


@compiles(seconds_from_now, "postgresql")
def _postgresql(element: FunctionElement[datetime], compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"clock_timestamp() + make_interval(secs => {seconds})"


@compiles(seconds_from_now, "sqlite")
def _sqlite(element: FunctionElement[datetime], compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', {seconds} || ' seconds')"


class Claim(msgspec.Struct, frozen=True):
    """What a worker holds: the run, and the fence under which it may write."""

    id: UUID
    owner_id: str
    agent_id: UUID
    agent_version: int
    session_id: UUID
    input_message_id: UUID
    fence: int
    attempt: int
    timeout_seconds: float | None
    correlation_id: str | None
    queued_at: datetime
    cancel_requested: bool
    callback_url: str | None


class LiveRun(msgspec.Struct, frozen=True):
    id: UUID
    agent_id: UUID


_id = executions.c.id == sa.bindparam("execution_id")
_fenced = (_id, executions.c.fence == sa.bindparam("my_fence"), executions.c.status == "running")
_COLUMNS = [executions.c[name] for name in (*Execution.__struct_fields__, VERSION)]
_CHANGED = {"row_version": executions.c.row_version + 1}
_CLAIM_COLUMNS = [executions.c[name] for name in Claim.__struct_fields__]
_lease = seconds_from_now(sa.bindparam("lease", type_=sa.Float))
_now = seconds_from_now(sa.literal_column("0"))

_GET = Statement(sa.select(*_COLUMNS).where(_id, executions.c.owner_id == sa.bindparam("owner")), Execution)
_INSERTED = [
    *Execution.__struct_fields__,
    *("owner_id", "holds_session", "epoch", "timeout_seconds", "correlation_id", "callback_url"),
]
_INSERT: Statement[None] = Statement(sa.insert(executions).values({name: sa.bindparam(name) for name in _INSERTED}))
_CLAIM = Statement(
    sa.update(executions)
    .where(_id, executions.c.status == "queued")
    .values(
        status="running",
        fence=executions.c.fence + 1,
        lease_until=_lease,
        started_at=sa.func.coalesce(executions.c.started_at, sa.bindparam("at", type_=Time)),
        **_CHANGED,
    )
    .returning(*_CLAIM_COLUMNS),
    Claim,
)
_RENEW = Statement(
    sa.update(executions).where(*_fenced).values(lease_until=_lease).returning(executions.c.cancel_requested), bool
)
_FIRST_TOKEN: Statement[None] = Statement(
    sa.update(executions).where(*_fenced).values(first_token_at=sa.bindparam("at"), **_CHANGED)
)
_RELEASE: Statement[None] = Statement(
    sa.update(executions)
    .where(*_fenced)
    .values(
        status="queued",
        lease_until=None,
        attempt=executions.c.attempt + sa.bindparam("lost", type_=sa.Integer),
        **_CHANGED,
    )
)
_FINISH: Statement[None] = Statement(
    sa.update(executions)
    .where(*_fenced)
    .values(
        status=sa.bindparam("new_status"),
        output_message_id=sa.bindparam("output_message_id"),
        error=sa.bindparam("error", type_=executions.c.error.type),
        usage=sa.bindparam("usage", type_=executions.c.usage.type),
        finished_at=sa.bindparam("at"),
        lease_until=None,
        holds_session=False,
        **_CHANGED,
    )
)
_LOST = Statement(
    sa.select(*_CLAIM_COLUMNS)
    .where(executions.c.status == "running", executions.c.lease_until < _now)
    .order_by(executions.c.id)
    .limit(100),
    Claim,
)
_QUEUED = Statement(
    sa.select(executions.c.id).where(executions.c.status == "queued").order_by(executions.c.id).limit(1000), UUID
)
_LIVE_OF_SESSIONS = Statement(
    sa.select(executions.c.id, executions.c.agent_id).where(
        among(executions.c.session_id, sa.bindparam("ids")),
        executions.c.owner_id == sa.bindparam("owner"),
        executions.c.holds_session,
    ),
    LiveRun,
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
_IS_LIVE = Statement(sa.select(executions.c.finished_at.is_(None)).where(_id), bool)
_REQUEST_CANCEL = Statement(
    sa.update(executions)
    .where(_id, executions.c.owner_id == sa.bindparam("owner"), executions.c.finished_at.is_(None))
    .values(cancel_requested=True)
    .returning(executions.c.status),
    str,
)
_EPOCH = Statement(sa.select(executions.c.epoch).where(_id, executions.c.owner_id == sa.bindparam("owner")), str)


async def get(connection: Reader, owner: str, execution_id: UUID) -> Execution | None:
    return await connection.first(_GET, execution_id=execution_id, owner=owner)


async def insert(
    connection: Connection,
    owner: str,
    execution: Execution,
    *,
    epoch: str,
    timeout: float | None,
    correlation_id: str | None,
    callback_url: str | None,
) -> None:
    """Raises UniqueViolation when the session has a live execution already."""
    values = msgspec.structs.asdict(execution) | {
        "error": None,
        "usage": None,
    }
    own = {"owner_id": owner, "holds_session": True, "epoch": epoch, "callback_url": callback_url}
    await connection.run(_INSERT, **values, **own, timeout_seconds=timeout, correlation_id=correlation_id)


async def claim(connection: Connection, execution_id: UUID, *, lease: float, at: datetime | None) -> Claim | None:
    """Takes a queued run for `lease` seconds, to start it `at` a time; None when it is no longer queued."""
    return await connection.first(_CLAIM, execution_id=execution_id, lease=lease, at=at)


async def renew(connection: Connection, claim: Claim, *, lease: float) -> bool | None:
    """Extends the lease; tells whether a cancel was asked for, None when the run is no longer ours."""
    return await connection.first(_RENEW, execution_id=claim.id, my_fence=claim.fence, lease=lease)


async def set_first_token(connection: Connection, claim: Claim, at: datetime) -> bool:
    return await connection.run(_FIRST_TOKEN, execution_id=claim.id, my_fence=claim.fence, at=at) == 1


async def release(connection: Connection, claim: Claim, *, lost: bool) -> bool:
    """Puts the run back in the queue; when its worker was lost, that counts as an attempt."""
    return await connection.run(_RELEASE, execution_id=claim.id, my_fence=claim.fence, lost=int(lost)) == 1


async def finish(
    connection: Connection,
    claim: Claim,
    *,
    status: str,
    output: UUID | None,
    error: StoredJson | None,
    usage: StoredJson,
    at: datetime,
) -> bool:
    return (
        await connection.run(
            _FINISH,
            execution_id=claim.id,
            my_fence=claim.fence,
            new_status=status,
            output_message_id=output,
            error=error,
            usage=usage,
            at=at,
        )
        == 1
    )


async def lost(connection: Reader) -> list[Claim]:
    """Runs whose worker has let its lease run out."""
    return await connection.all(_LOST)


async def queued(connection: Reader) -> list[UUID]:
    return await connection.all(_QUEUED)


async def live_of_sessions(connection: Connection, owner: str, session_ids: Sequence[UUID]) -> list[LiveRun]:
    return await connection.all(_LIVE_OF_SESSIONS, ids=list(session_ids), owner=owner)


async def of_session(reader: Reader, owner: str, session_id: UUID, after: UUID, limit: int) -> list[Execution]:
    """Those behind an id, oldest first."""
    return await reader.all(_OF_SESSION, session_id=session_id, owner=owner, after=after, row_limit=limit)


async def request_cancel(connection: Connection, owner: str, execution_id: UUID) -> str | None:
    """Marks the run; answers its status, None when it has ended or is not the owner's."""
    return await connection.first(_REQUEST_CANCEL, execution_id=execution_id, owner=owner)


async def is_live(connection: Reader, execution_id: UUID) -> bool | None:
    """Whether the run has not ended; None when it is gone."""
    return await connection.first(_IS_LIVE, execution_id=execution_id)


async def epoch(connection: Reader, owner: str, execution_id: UUID) -> str | None:
    """The epoch of the execution's event log, None when it is not the owner's."""
    return await connection.first(_EPOCH, execution_id=execution_id, owner=owner)
