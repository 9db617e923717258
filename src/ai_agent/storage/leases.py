"""The worker's side of executions: who holds a run, until when, and how it goes on.

A worker's writes name the fence it claimed: with an old one they change nothing. Leases are compared on the database's
clock, whatever the nodes' clocks say. Source: M. Kleppmann, "How to do distributed locking", on fencing tokens.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.executions import ExecutionStatus, OnBusy
from ai_agent.domain.fields import StoredJson
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among, seconds_from_now
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import Time, execution_states, executions, messages


class Claim(msgspec.Struct, frozen=True):
    """What a worker holds: the run, and the fence under which it may write."""

    id: UUID
    owner_id: str
    agent_id: UUID
    agent_version: int
    session_id: UUID
    input_message_id: UUID | None
    fence: int
    attempt: int
    timeout_seconds: float | None
    correlation_id: str | None
    queued_at: datetime
    first_token_at: datetime | None
    cancel_requested: bool
    holds_session: bool
    rolls_back: bool
    callback_url: str | None


class Held(msgspec.Struct, frozen=True):
    """A run that a worker holds, as the database knows it."""

    id: UUID
    fence: int
    cancel_requested: bool


class Figures(msgspec.Struct, frozen=True):
    """What metrics are made of. Times in milliseconds since the run was queued."""

    latency_ms: int
    first_token_ms: int | None
    input_tokens: int
    output_tokens: int
    cost: float | None
    tool_call_count: int


_id = executions.c.id == sa.bindparam("execution_id")
_queued = executions.c.status == ExecutionStatus.QUEUED.value
_running = executions.c.status == ExecutionStatus.RUNNING.value
_fenced = (_id, executions.c.fence == sa.bindparam("my_fence"), _running)
_CHANGED = {VERSION: executions.c.row_version + 1}
_CLAIM_COLUMNS = [executions.c[name] for name in Claim.__struct_fields__]
_HELD_COLUMNS = [executions.c[name] for name in Held.__struct_fields__]
_lease = seconds_from_now(sa.bindparam("lease", type_=sa.Float))
_now = seconds_from_now(sa.literal_column("0"))
_taken = {"status": ExecutionStatus.RUNNING.value, "fence": executions.c.fence + 1, **_CHANGED}

_CLAIM = Statement(
    sa.update(executions)
    .where(_id, _queued, executions.c.holds_session)
    .values(
        lease_until=_lease,
        lease_owner=sa.bindparam("worker"),
        started_at=sa.func.coalesce(executions.c.started_at, sa.bindparam("at", type_=Time)),
        **_taken,
    )
    .returning(*_CLAIM_COLUMNS),
    Claim,
)
_TAKE = Statement(
    sa.update(executions)
    .where(_id, sa.or_(_queued, executions.c.status == ExecutionStatus.WAITING.value))
    .values(lease_until=_lease, **_taken)
    .returning(*_CLAIM_COLUMNS),
    Claim,
)
_MINE = Statement(sa.select(*_CLAIM_COLUMNS).where(*_fenced).with_for_update(), Claim)
_RENEW = Statement(
    sa.update(executions).where(*_fenced).values(lease_until=_lease).returning(executions.c.cancel_requested), bool
)
_RENEW_ALL = Statement(
    sa.update(executions)
    .where(among(executions.c.id, sa.bindparam("ids")), _running, executions.c.lease_owner == sa.bindparam("worker"))
    .values(lease_until=_lease)
    .returning(*_HELD_COLUMNS),
    Held,
)
_TO_CANCEL = Statement(
    sa.select(*_HELD_COLUMNS).where(
        _running, executions.c.lease_owner == sa.bindparam("worker"), executions.c.cancel_requested
    ),
    Held,
)
_FIRST_TOKEN: Statement[None] = Statement(
    sa.update(executions)
    .where(*_fenced, executions.c.first_token_at.is_(None))
    .values(first_token_at=sa.bindparam("at"), **_CHANGED)
)
_FREE: dict[str, Any] = {"lease_until": None, "lease_owner": None, **_CHANGED}
_RELEASE: Statement[None] = Statement(
    sa.update(executions)
    .where(*_fenced)
    .values(
        status=ExecutionStatus.QUEUED.value,
        attempt=executions.c.attempt + sa.bindparam("lost", type_=sa.Integer),
        **_FREE,
    )
)
_WAIT: Statement[None] = Statement(
    sa.update(executions).where(*_fenced).values(status=ExecutionStatus.WAITING.value, **_FREE)
)
_GO_ON: Statement[None] = Statement(
    sa.update(executions)
    .where(_id, executions.c.status == ExecutionStatus.WAITING.value)
    .values(status=ExecutionStatus.QUEUED.value, **_CHANGED)
)
_figures: dict[str, Any] = {name: sa.bindparam(name) for name in Figures.__struct_fields__}
_FINISH: Statement[None] = Statement(
    sa.update(executions)
    .where(*_fenced)
    .values(
        status=sa.bindparam("new_status"),
        input_message_id=sa.bindparam("input_message_id"),
        output_message_id=sa.bindparam("output_message_id"),
        error=sa.bindparam("error", type_=executions.c.error.type),
        usage=sa.bindparam("usage", type_=executions.c.usage.type),
        first_token_at=sa.bindparam("first_token_at", type_=Time),
        finished_at=sa.bindparam("at"),
        holds_session=False,
        **_figures,
        **_FREE,
    )
)
# SQLite looks into a partial index only where the condition is repeated word for word.
_indexed = sa.text("status IN ('queued', 'running')")
_LOST = Statement(
    sa.select(*_CLAIM_COLUMNS)
    .where(_indexed, _running, executions.c.lease_until < _now)
    .order_by(executions.c.id)
    .limit(100),
    Claim,
)
_QUEUED = Statement(
    sa.select(executions.c.id)
    .where(_indexed, _queued, executions.c.holds_session)
    .order_by(executions.c.id)
    .limit(sa.bindparam("row_limit", type_=sa.Integer)),
    UUID,
)
_place = sa.select(messages.c.position).where(messages.c.id == executions.c.input_message_id)
_next = (
    sa.select(executions.c.id)
    .where(
        executions.c.session_id == sa.bindparam("session_id"),
        _queued,
        ~executions.c.holds_session,
    )
    # In the order of their messages, whose places are given under the session's lock.
    .order_by(executions.c.on_busy == OnBusy.ENQUEUE.value, _place.scalar_subquery(), executions.c.id)
    .limit(1)
)
_PROMOTE = Statement(
    sa.update(executions)
    .where(executions.c.id == _next.scalar_subquery())
    .values(holds_session=True, **_CHANGED)
    .returning(*_CLAIM_COLUMNS),
    Claim,
)
_of_run = execution_states.c.execution_id == sa.bindparam("id")
_STATE = Statement(sa.select(execution_states.c.state).where(_of_run), msgspec.Raw)
_KEEP: Statement[None] = Statement(sa.update(execution_states).where(_of_run).values(state=sa.bindparam("state")))
_KEEP_FIRST: Statement[None] = Statement(
    sa.insert(execution_states).values(execution_id=sa.bindparam("id"), state=sa.bindparam("state"))
)
_FORGET: Statement[None] = Statement(sa.delete(execution_states).where(_of_run))


async def claim(connection: Connection, execution_id: UUID, *, worker: str, lease: float, at: datetime) -> Claim | None:
    """Takes a queued run for `lease` seconds; None when it is no longer queued, or waits for its session."""
    return await connection.first(_CLAIM, execution_id=execution_id, worker=worker, lease=lease, at=at)


async def take(connection: Connection, execution_id: UUID, *, lease: float) -> Claim | None:
    """Takes a run that no worker holds, to end it in this transaction; None when there is nothing to take."""
    return await connection.first(_TAKE, execution_id=execution_id, lease=lease)


async def mine(connection: Connection, claim: Claim) -> Claim | None:
    """The claim as it is now, locked, with what was asked of the run meanwhile; None when it is no longer ours."""
    return await connection.first(_MINE, execution_id=claim.id, my_fence=claim.fence)


async def renew(connection: Connection, claim: Claim, *, lease: float) -> bool | None:
    """Extends the lease; tells whether a cancel was asked for, None when the run is no longer ours."""
    return await connection.first(_RENEW, execution_id=claim.id, my_fence=claim.fence, lease=lease)


async def renew_all(connection: Connection, worker: str, ids: Sequence[UUID], *, lease: float) -> list[Held]:
    """Extends the leases of these runs, and tells which of them the worker holds."""
    return await connection.all(_RENEW_ALL, worker=worker, ids=list(ids), lease=lease)


async def to_cancel(reader: Reader, worker: str) -> list[Held]:
    """Runs of a worker that somebody wants to stop."""
    return await reader.all(_TO_CANCEL, worker=worker)


async def set_first_token(connection: Connection, claim: Claim, at: datetime) -> None:
    """The first time counts, also over a wait or a lost worker."""
    await connection.run(_FIRST_TOKEN, execution_id=claim.id, my_fence=claim.fence, at=at)


async def release(connection: Connection, claim: Claim, *, lost: bool) -> bool:
    """Puts the run back in the queue; when its worker was lost, that counts as an attempt."""
    return await connection.run(_RELEASE, execution_id=claim.id, my_fence=claim.fence, lost=int(lost)) == 1


async def wait(connection: Connection, claim: Claim) -> bool:
    """Leaves the run to those who must answer first: no worker holds it."""
    return await connection.run(_WAIT, execution_id=claim.id, my_fence=claim.fence) == 1


async def go_on(connection: Connection, execution_id: UUID) -> bool:
    """Queues a run that has waited."""
    return await connection.run(_GO_ON, execution_id=execution_id) == 1


async def finish(
    connection: Connection,
    claim: Claim,
    *,
    status: ExecutionStatus,
    input_message_id: UUID | None,
    output_message_id: UUID | None,
    error: StoredJson | None,
    usage: StoredJson,
    figures: Figures,
    first_token_at: datetime | None,
    at: datetime,
) -> bool:
    touched = await connection.run(
        _FINISH,
        execution_id=claim.id,
        my_fence=claim.fence,
        new_status=status,
        input_message_id=input_message_id,
        output_message_id=output_message_id,
        error=error,
        usage=usage,
        first_token_at=first_token_at,
        at=at,
        **msgspec.structs.asdict(figures),
    )
    await connection.run(_FORGET, id=claim.id)
    return touched == 1


async def promote(connection: Connection, session_id: UUID) -> Claim | None:
    """Gives the session, which the caller locks, to the run that is next: who interrupted, else who waits longest."""
    return await connection.first(_PROMOTE, session_id=session_id)


async def lost(reader: Reader) -> list[Claim]:
    """Runs whose worker has let its lease run out."""
    return await reader.all(_LOST)


async def queued(reader: Reader, limit: int) -> list[UUID]:
    """Runs that any worker may begin, oldest first."""
    return await reader.all(_QUEUED, row_limit=limit)


async def state(connection: Reader, execution_id: UUID) -> StoredJson | None:
    """What the run has come to, None when it has not come to anything."""
    return await connection.first(_STATE, id=execution_id)


async def keep_state(connection: Connection, execution_id: UUID, state: StoredJson) -> None:
    """The caller holds the run's lease in this transaction."""
    if not await connection.run(_KEEP, id=execution_id, state=state):
        await connection.run(_KEEP_FIRST, id=execution_id, state=state)
