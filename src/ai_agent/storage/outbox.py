"""Events that are committed with the change that they tell of, until the event log has them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.fields import StoredJson, now
from ai_agent.storage.database import Connection, Database, Reader
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import outbox


class Unconfirmed(msgspec.Struct, frozen=True):
    """An event that the log may not have yet."""

    seq: int
    eid: UUID
    channel: str
    type: EventType
    data: StoredJson
    fence: int
    created_at: datetime

    @property
    def event(self) -> NewEvent:
        return NewEvent(self.type, self.data, self.eid, int(self.created_at.timestamp() * 1000))


_COLUMNS = [outbox.c[name] for name in Unconfirmed.__struct_fields__]
_ADDED = ("eid", "channel", "type", "data", "fence", "created_at")
_ADD: Statement[None] = Statement(sa.insert(outbox).values({name: sa.bindparam(name) for name in _ADDED}))
_OF_CHANNEL = Statement(
    sa.select(*_COLUMNS).where(outbox.c.channel == sa.bindparam("channel")).order_by(outbox.c.seq), Unconfirmed
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
_CONFIRM: Statement[None] = Statement(
    sa.delete(outbox).where(outbox.c.channel == sa.bindparam("channel"), outbox.c.seq <= sa.bindparam("last"))
)


async def add(connection: Connection, channel: str, events: Sequence[NewEvent], fence: int = 0) -> None:
    """The caller holds the row that the channel is about, so that the order of the rows is that of the commits."""
    at = now()
    rows = [
        {"eid": e.eid, "channel": channel, "type": e.type, "data": e.data, "fence": fence, "created_at": at}
        for e in events
    ]
    await connection.many(_ADD, rows)


async def of_channel(reader: Reader, channel: str) -> list[Unconfirmed]:
    return await reader.all(_OF_CHANNEL, channel=channel)


async def left_behind(reader: Reader, before: datetime, limit: int) -> list[str]:
    """Channels with events from before a time: nobody has published them, for whoever wrote them is gone."""
    return await reader.all(_LEFT_BEHIND, before=before, row_limit=limit)


async def oldest(reader: Reader) -> datetime | None:
    """When the event was written that has waited longest."""
    return await reader.first(_OLDEST)


async def confirm(database: Database, confirmed: Mapping[str, int]) -> None:
    """The log has the events of each channel up to the one with this number."""
    async with database.unit_of_work() as connection:
        # In one order, so that two processes that confirm the same never wait for each other.
        await connection.many(_CONFIRM, [{"channel": name, "last": last} for name, last in sorted(confirmed.items())])
