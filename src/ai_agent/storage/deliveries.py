"""Deliveries of webhooks. An attempt holds its row by the `next_attempt_at` it has set, on the database's clock."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.deliveries import Delivery, DeliveryStatus
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among, seconds_from_now
from ai_agent.storage.keyset import Listing
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import webhook_deliveries as deliveries

LIST = Listing(deliveries, Delivery)


class Due(msgspec.Struct, frozen=True):
    """A delivery whose time has come, and whose turn it is: its owner's and its receiver's."""

    id: UUID
    owner_id: str
    url: str


class Attempt(msgspec.Struct, frozen=True):
    """What is sent. Nobody else sends it before `next_attempt_at`."""

    id: UUID
    owner_id: str
    url: str
    payload: str
    attempts: int
    next_attempt_at: datetime


_COLUMNS = [deliveries.c[name] for name in Delivery.__struct_fields__]
_ADDED = ("id", "owner_id", "execution_id", "url", "event", "payload", "created_at")
_id = deliveries.c.id == sa.bindparam("delivery_id")
_pending = deliveries.c.status == sa.literal_column(f"'{DeliveryStatus.PENDING}'")
_now = seconds_from_now(sa.literal_column("0"))
_later = seconds_from_now(sa.bindparam("seconds", type_=sa.Float))
# Asked once a statement: PostgreSQL looks for no moving time in an index.
_is_due = deliveries.c.next_attempt_at <= sa.select(_now).scalar_subquery()
_mine = (
    _id,
    deliveries.c.execution_id == sa.bindparam("execution_id"),
    deliveries.c.owner_id == sa.bindparam("owner"),
)

_ADD: Statement[None] = Statement(
    sa.insert(deliveries).values(
        {name: sa.bindparam(name) for name in _ADDED}
        | {"status": DeliveryStatus.PENDING.value, "attempts": 0, "next_attempt_at": _now}
    )
)
_DUE = Statement(
    sa.select(*(deliveries.c[name] for name in Due.__struct_fields__))
    .where(
        _pending,
        _is_due,
        sa.not_(among(deliveries.c.owner_id, sa.bindparam("owners"))),
        sa.not_(among(deliveries.c.url, sa.bindparam("urls"))),
    )
    .order_by(deliveries.c.next_attempt_at)
    .limit(sa.bindparam("row_limit", type_=sa.Integer)),
    Due,
)
_TAKE = Statement(
    sa.update(deliveries)
    .where(_id, _pending, _is_due)
    .values(attempts=deliveries.c.attempts + 1, next_attempt_at=_later)
    .returning(*(deliveries.c[name] for name in Attempt.__struct_fields__)),
    Attempt,
)
_held = (_id, _pending, deliveries.c.next_attempt_at == sa.bindparam("held"))
_outcome = {name: sa.bindparam(name, type_=deliveries.c[name].type) for name in ("response_status", "error")}
_END: Statement[None] = Statement(
    sa.update(deliveries)
    .where(*_held)
    .values(status=sa.bindparam("new_status"), next_attempt_at=None, finished_at=sa.bindparam("at"), **_outcome)
)
_RETRY: Statement[None] = Statement(sa.update(deliveries).where(*_held).values(next_attempt_at=_later, **_outcome))
_GET = Statement(sa.select(*_COLUMNS).where(*_mine), Delivery)
_RESEND = Statement(
    sa.update(deliveries)
    .where(*_mine, sa.not_(_pending))
    .values(
        status=DeliveryStatus.PENDING.value,
        attempts=0,
        next_attempt_at=_now,
        response_status=None,
        error=None,
        finished_at=None,
    )
    .returning(*_COLUMNS),
    Delivery,
)


async def add(
    rows: Connection,
    *,
    delivery_id: UUID,
    owner: str,
    execution_id: UUID,
    url: str,
    event: str,
    payload: str,
    at: datetime,
) -> None:
    values = {"url": url, "event": event, "payload": payload, "created_at": at}
    await rows.run(_ADD, id=delivery_id, owner_id=owner, execution_id=execution_id, **values)


async def due(reader: Reader, limit: int, *, owners: Collection[str], urls: Collection[str]) -> list[Due]:
    """Those whose time has come, the longest due first, but for these owners and addresses."""
    return await reader.all(_DUE, row_limit=limit, owners=list(owners), urls=list(urls))


async def take(rows: Connection, delivery_id: UUID, seconds: float) -> Attempt | None:
    """Begins an attempt, which has so many seconds; None when another process was faster."""
    return await rows.first(_TAKE, delivery_id=delivery_id, seconds=seconds)


async def end(
    rows: Connection, held: Attempt, status: DeliveryStatus, response: int | None, error: str | None, at: datetime
) -> None:
    """Nothing changes where the attempt took too long, and another one was begun."""
    outcome = {"response_status": response, "error": error}
    await rows.run(_END, delivery_id=held.id, held=held.next_attempt_at, new_status=status, at=at, **outcome)


async def retry(rows: Connection, held: Attempt, seconds: float, response: int | None, error: str | None) -> None:
    """Sets the time of the next attempt; nothing changes where another one was begun."""
    outcome = {"response_status": response, "error": error}
    await rows.run(_RETRY, delivery_id=held.id, held=held.next_attempt_at, seconds=seconds, **outcome)


async def get(reader: Reader, owner: str, execution_id: UUID, delivery_id: UUID) -> Delivery | None:
    return await reader.first(_GET, delivery_id=delivery_id, execution_id=execution_id, owner=owner)


async def resend(rows: Connection, owner: str, execution_id: UUID, delivery_id: UUID) -> Delivery | None:
    """Begins a finished delivery anew; None when there is none."""
    return await rows.first(_RESEND, delivery_id=delivery_id, execution_id=execution_id, owner=owner)
