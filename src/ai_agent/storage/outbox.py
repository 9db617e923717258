"""Events that are committed with the change that they tell of, until the event log has them."""

import base64
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.channels import queue_of, queued_for
from ai_agent.domain.events import NewEvent
from ai_agent.domain.fields import StoredJson, now
from ai_agent.domain.inbox import Envelope, EventDelivery, EventDeliveryStatus
from ai_agent.storage.database import Connection, Database, Reader, Told
from ai_agent.storage.functions import among
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import outbox

FORGETS = -1
"""The fence of a channel's last word: all that was told before it is forgotten. With null as data nothing is told."""


class Unconfirmed(msgspec.Struct, frozen=True):
    """An event that the log may not have yet."""

    seq: int
    eid: UUID
    channel: str
    type: str
    data: StoredJson
    fence: int
    created_at: datetime

    @property
    def event(self) -> NewEvent:
        return NewEvent(self.type, self.data, self.eid, int(self.created_at.timestamp() * 1000))


class Accepted(msgspec.Struct, frozen=True):
    """An event that is on its way into a user's queue."""

    user_id: str
    sender: str | None
    delivery: EventDelivery


_COLUMNS = [outbox.c[name] for name in Unconfirmed.__struct_fields__]
_ADDED = ("eid", "channel", "type", "data", "fence", "created_at")
# With names of their own, beside those of the statement that is told of.
ADD: Statement[None] = Statement(sa.insert(outbox).values({name: sa.bindparam(f"told_{name}") for name in _ADDED}))
_OTHERS = Statement(
    sa.select(*_COLUMNS)
    .where(among(outbox.c.channel, sa.bindparam("channels")), sa.not_(among(outbox.c.seq, sa.bindparam("known"))))
    .order_by(outbox.c.seq),
    Unconfirmed,
)
# There are few rows, so the id has no index.
_ONE = Statement(
    sa.select(*_COLUMNS).where(
        outbox.c.eid == sa.bindparam("eid", type_=outbox.c.eid.type), outbox.c.channel.startswith(queue_of(""))
    ),
    Unconfirmed,
)
_LEFT_BEHIND = Statement(
    sa.select(outbox.c.channel)
    .where(outbox.c.created_at < sa.bindparam("before"))
    .group_by(outbox.c.channel)
    .order_by(sa.func.min(outbox.c.seq))
    .limit(sa.bindparam("row_limit", type_=sa.Integer)),
    str,
)
# By the number, which has an index; rows of different channels may be as much out of order as a transaction is long.
_OLDEST = Statement(sa.select(outbox.c.created_at).order_by(outbox.c.seq).limit(1), datetime)
_CONFIRM: Statement[None] = Statement(sa.delete(outbox).where(among(outbox.c.seq, sa.bindparam("seqs"))))


@cache
def telling(statement: Statement[Any]) -> Statement[Any]:
    """A statement that writes an event as well, whose `row` are more parameters; for PostgreSQL."""
    assert isinstance(statement.element, sa.Insert | sa.Update | sa.Delete)  # noqa: S101  # what `write` takes
    return Statement(statement.element.add_cte(ADD.element.cte("told")))


def row(told: Told) -> dict[str, Any]:
    """The parameters of ADD."""
    event = told.event
    values = (event.eid, told.channel, event.type, event.data, told.fence, now())
    return {f"told_{name}": value for name, value in zip(_ADDED, values, strict=True)}


def as_text(told: Sequence[Told]) -> str:
    """The statement that adds events, with a semicolon, for PostgreSQL: as text it travels with the COMMIT.

    What others have named is in base64, in which nothing can end a literal.
    """
    if not told:
        return ""
    at = now().isoformat()
    values = ", ".join(
        f"('{event.eid}'::uuid, {_literal(channel.encode())}, {_literal(event.type.encode())},"
        f" {_literal(bytes(event.data))}::json, {fence}, '{at}'::timestamptz)"
        for channel, event, fence in told
    )
    return f"INSERT INTO {outbox.name} ({', '.join(_ADDED)}) VALUES {values}; "  # noqa: S608  # see the docstring


def _literal(text: bytes) -> str:
    return f"convert_from(decode('{base64.b64encode(text).decode()}', 'base64'), 'UTF8')"


async def others(reader: Reader, channels: Collection[str], known: Collection[int]) -> list[Unconfirmed]:
    """The events of channels, in order, without those whose numbers are known.

    Not just those behind the last known one: where nothing orders the transactions that write to a channel, a lower
    number may be committed later.
    """
    return await reader.all(_OTHERS, channels=list(channels), known=list(known))


async def queued(reader: Reader, eid: UUID) -> Accepted | None:
    """An event that goes into a user's queue and is not there yet."""
    row = await reader.first(_ONE, eid=eid)
    user = None if row is None else queued_for(row.channel)
    if row is None or user is None:
        return None
    envelope = msgspec.json.decode(row.data, type=Envelope)
    delivery = EventDelivery(
        eid=eid,
        status=EventDeliveryStatus.ACCEPTED,
        type=row.type,
        user_id=user,
        lane=envelope.lane,
        seq=None,
        accepted_at=row.created_at,
        expires_at=envelope.expires_at,
    )
    return Accepted(user, envelope.sender, delivery)


async def left_behind(reader: Reader, before: datetime, limit: int) -> list[str]:
    """Channels with events from before a time: nobody has published them, for whoever wrote them is gone."""
    return await reader.all(_LEFT_BEHIND, before=before, row_limit=limit)


async def oldest(reader: Reader) -> datetime | None:
    """When the event was written that waits longest."""
    return await reader.first(_OLDEST)


async def remove(rows: Connection, seqs: Collection[int]) -> None:
    """They have gone where they belong, in the caller's transaction."""
    await rows.run(_CONFIRM, seqs=sorted(seqs))


async def confirm(database: Database, seqs: Collection[int]) -> None:
    """The log has the events with these numbers."""
    await database.write(_CONFIRM, seqs=sorted(seqs))
