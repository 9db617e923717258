"""Users' queues: rows that wait until they are acknowledged. Times are the database's own.

A try lasts so many seconds, in which all clients of the user may be told; the next one counts anew.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert

from ai_agent.domain.fields import StoredJson, now
from ai_agent.domain.inbox import DeadLetter, Lane, UserQueue
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among, seconds_from_now
from ai_agent.storage.keyset import Listing
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import Time, inbox, inbox_lanes

TRIM_STEP = 500
FORGOTTEN_AT_ONCE = 1000


class Waiting(msgspec.Struct, frozen=True):
    """An event that nobody has acknowledged."""

    lane: int
    seq: int
    eid: UUID
    type: str
    data: StoredJson
    created_at: datetime
    expires_at: datetime | None
    held_until: datetime | None
    tries: int
    """With the next time that it is sent."""


class Arrival(msgspec.Struct, frozen=True):
    """An event on its way into a lane."""

    eid: UUID
    type: str
    data: StoredJson
    sender: str | None
    created_at: datetime
    expires_at: datetime | None


class Acknowledged(msgspec.Struct, frozen=True):
    eid: UUID
    created_at: datetime


class Record(msgspec.Struct, frozen=True):
    """What became of an event."""

    eid: UUID
    user_id: str
    lane: int
    seq: int
    type: str
    sender: str | None
    tries: int
    created_at: datetime
    stored_at: datetime
    expires_at: datetime | None
    sent_at: datetime | None
    acked_at: datetime | None
    acked_by: str | None
    dead_at: datetime | None


class Unacknowledged(msgspec.Struct, frozen=True):
    """How many events wait, and how many nobody acknowledged in time, of all users."""

    waiting: int
    dead: int
    oldest_at: datetime | None


def _parameter(name: str, column: str) -> "sa.BindParameter[Any]":
    return sa.bindparam(name, type_=inbox.c[column].type)


_now = seconds_from_now(sa.literal_column("0"))
# Asked once a statement: PostgreSQL looks for no moving time in an index.
_at = sa.select(_now).scalar_subquery()
_ago = sa.select(seconds_from_now(sa.bindparam("try_seconds", type_=sa.Float))).scalar_subquery()
_user = inbox.c.user_id == _parameter("user", "user_id")
_waits = (inbox.c.acked_at.is_(None), inbox.c.dead_at.is_(None))
_listed = among(inbox.c.eid, sa.bindparam("eids"))
_begins = sa.or_(inbox.c.sent_at.is_(None), inbox.c.sent_at <= _ago)
_alive = sa.or_(inbox.c.expires_at.is_(None), inbox.c.expires_at > _at)

_LOCK = Statement(
    upsert(inbox_lanes)
    .values(user_id=_parameter("user", "user_id"), lane=_parameter("of_lane", "lane"), top=sa.literal_column("0"))
    .on_conflict_do_update(index_elements=["user_id", "lane"], set_={"top": inbox_lanes.c.top})
    .returning(inbox_lanes.c.top),
    int,
)
_RAISE: Statement[None] = Statement(
    sa.update(inbox_lanes)
    .where(inbox_lanes.c.user_id == _parameter("user", "user_id"), inbox_lanes.c.lane == _parameter("of_lane", "lane"))
    .values(top=_parameter("new_top", "seq"))
)
_KNOWN = Statement(sa.select(inbox.c.eid).where(_listed), UUID)
_ADDED = ("user_id", "lane", "seq", "eid", "type", "data", "sender", "created_at", "expires_at", "stored_at")
_ADD: Statement[None] = Statement(sa.insert(inbox).values({name: sa.bindparam(name) for name in _ADDED}))
_TRIM: Statement[None] = Statement(
    sa.delete(inbox).where(
        _user, inbox.c.lane == _parameter("of_lane", "lane"), inbox.c.seq <= _parameter("until", "seq")
    )
)
_tries = sa.case((_begins, inbox.c.tries + 1), else_=inbox.c.tries)
_columns = [_tries.label(name) if name == "tries" else inbox.c[name] for name in Waiting.__struct_fields__]
_NEXT = Statement(
    sa.select(*_columns)
    .where(
        _user,
        *_waits,
        sa.or_(
            *(
                sa.and_(
                    inbox.c.lane == sa.literal_column(str(int(lane))), inbox.c.seq > _parameter(f"after_{lane}", "seq")
                )
                for lane in Lane
            )
        ),
    )
    .order_by(inbox.c.lane, inbox.c.seq)
    .limit(sa.bindparam("row_limit", type_=sa.Integer)),
    Waiting,
)
_AGAIN = Statement(sa.select(*_columns).where(_user, *_waits, _listed).order_by(inbox.c.lane, inbox.c.seq), Waiting)
_SENT: Statement[None] = Statement(
    sa.update(inbox).where(_listed, *_waits, _begins).values(tries=inbox.c.tries + 1, sent_at=_at, held_until=None)
)
_BURY = Statement(
    sa.update(inbox)
    .where(_user, *_waits, inbox.c.tries >= sa.bindparam("most_tries", type_=sa.Integer), _begins, _alive)
    .values(dead_at=_at)
    .returning(inbox.c.eid),
    UUID,
)
_acknowledged = {"acked_at": _at, "acked_by": _parameter("by", "acked_by"), "dead_at": None}
_ACK_ALL = Statement(
    sa.update(inbox)
    .where(
        _user,
        inbox.c.lane == _parameter("of_lane", "lane"),
        inbox.c.seq <= _parameter("until", "seq"),
        inbox.c.acked_at.is_(None),
        sa.or_(inbox.c.tries > 0, _listed),
    )
    .values(_acknowledged)
    .returning(inbox.c.eid, inbox.c.created_at),
    Acknowledged,
)
_ACK = Statement(
    sa.update(inbox)
    .where(_user, _listed, inbox.c.acked_at.is_(None))
    .values(_acknowledged)
    .returning(inbox.c.eid, inbox.c.created_at),
    Acknowledged,
)
_HOLD = Statement(
    sa.update(inbox)
    .where(_user, inbox.c.eid == _parameter("eid", "eid"), *_waits)
    .values(
        held_until=sa.select(seconds_from_now(sa.bindparam("seconds", type_=sa.Float))).scalar_subquery(), sent_at=None
    )
    .returning(inbox.c.eid),
    UUID,
)
_RECORD = Statement(
    sa.select(*[inbox.c[name] for name in Record.__struct_fields__]).where(inbox.c.eid == _parameter("eid", "eid")),
    Record,
)
_LANES = Statement(
    sa.select(
        inbox.c.user_id,
        inbox.c.lane,
        sa.func.count().filter(inbox.c.dead_at.is_(None)).label("depth"),
        sa.func.min(inbox.c.created_at, type_=Time).filter(inbox.c.dead_at.is_(None)).label("oldest_at"),
        sa.func.count().filter(inbox.c.dead_at.is_not(None)).label("dead_letters"),
    )
    .where(inbox.c.acked_at.is_(None), sa.or_(_user, _parameter("user", "user_id").is_(None)))
    .group_by(inbox.c.user_id, inbox.c.lane)
    .order_by(sa.desc("depth"), sa.desc("dead_letters"), inbox.c.user_id, inbox.c.lane)
    .limit(sa.bindparam("row_limit", type_=sa.Integer))
    .offset(sa.bindparam("row_offset", type_=sa.Integer)),
    UserQueue,
)
_dead = inbox.c.dead_at.is_not(None)
_chosen = (_dead, sa.or_(_user, _parameter("user", "user_id").is_(None)))
_replay = (
    sa.update(inbox)
    .where(*_chosen)
    .values(dead_at=None, tries=0, sent_at=None, held_until=None)
    .returning(inbox.c.user_id)
)
_REPLAY, _REPLAY_SOME = Statement(_replay, str), Statement(_replay.where(_listed), str)
_purge = sa.delete(inbox).where(*_chosen).returning(inbox.c.eid)
_PURGE, _PURGE_SOME = Statement(_purge, UUID), Statement(_purge.where(_listed), UUID)
_FORGET: Statement[None] = Statement(sa.delete(inbox).where(_listed))
_OLD = Statement(
    sa.select(inbox.c.eid)
    .where(inbox.c.lane == _parameter("of_lane", "lane"), inbox.c.created_at < sa.bindparam("before"))
    .limit(sa.literal_column(str(FORGOTTEN_AT_ONCE))),
    UUID,
)
_COUNTS = Statement(
    sa.select(
        sa.func.count().filter(inbox.c.dead_at.is_(None)).label("waiting"),
        sa.func.count().filter(_dead).label("dead"),
        sa.func.min(inbox.c.created_at, type_=Time).filter(inbox.c.dead_at.is_(None)).label("oldest_at"),
    ).where(inbox.c.acked_at.is_(None)),
    Unacknowledged,
)
DEAD_LETTERS = Listing(inbox, DeadLetter, {"is_dead": _dead}, identity="eid", created="dead_at", owned=False)


async def append(rows: Connection, user: str, lane: Lane, arrivals: Sequence[Arrival], most: int) -> bool:
    """Numbers events behind those of the lane, but for those that are there already; whether any was new.

    Of the lane only the newest are kept, about so many as `most`.
    """
    top = await rows.first(_LOCK, user=user, of_lane=lane)
    assert top is not None  # noqa: S101  # the statement makes the row
    known = set(await rows.all(_KNOWN, eids=[arrival.eid for arrival in arrivals]))
    # One may come twice in a row, when a relay and its writer are at it together.
    new = list({arrival.eid: arrival for arrival in arrivals if arrival.eid not in known}.values())
    if not new:
        return False
    await rows.many(_ADD, [_values(user, lane, seq, arrival) for seq, arrival in enumerate(new, top + 1)])
    last = top + len(new)
    await rows.run(_RAISE, user=user, of_lane=lane, new_top=last)
    if last // TRIM_STEP > top // TRIM_STEP and last > most:
        await rows.run(_TRIM, user=user, of_lane=lane, until=last - most)
    return True


def _values(user: str, lane: Lane, seq: int, arrival: Arrival) -> dict[str, Any]:
    own = {"user_id": user, "lane": int(lane), "seq": seq, "stored_at": now()}
    return own | {name: getattr(arrival, name) for name in arrival.__struct_fields__}


async def waiting(reader: Reader, user: str, after: Sequence[int], limit: int, try_seconds: float) -> list[Waiting]:
    """What nobody has acknowledged behind a number of each lane: urgent first, in order, expired and held ones too."""
    behind = {f"after_{lane}": after[lane] for lane in Lane}
    return await reader.all(_NEXT, user=user, row_limit=limit, try_seconds=-try_seconds, **behind)


async def again(reader: Reader, user: str, eids: Collection[UUID], try_seconds: float) -> list[Waiting]:
    """Those of some events that nobody has acknowledged yet."""
    return await reader.all(_AGAIN, user=user, eids=list(eids), try_seconds=-try_seconds)


async def sent(rows: Connection, eids: Collection[UUID], try_seconds: float) -> None:
    """Begins a try of each, but for those that were sent within the present one, or acknowledged meanwhile."""
    await rows.run(_SENT, eids=list(eids), try_seconds=-try_seconds)


async def bury(rows: Connection, user: str, try_seconds: float, most_tries: int) -> int:
    """Makes dead letters of what was sent as often as may be, and tells of how many."""
    return len(await rows.all(_BURY, user=user, try_seconds=-try_seconds, most_tries=most_tries))


async def acknowledge_until(
    rows: Connection, user: str, lane: Lane, seq: int, eids: Collection[UUID], by: str
) -> list[Acknowledged]:
    """All of a lane up to a number that were ever sent, as `eids` were just now; those that waited."""
    return await rows.all(_ACK_ALL, user=user, of_lane=lane, until=seq, eids=list(eids), by=by)


async def acknowledge(rows: Connection, user: str, eids: Collection[UUID], by: str) -> list[Acknowledged]:
    return await rows.all(_ACK, user=user, eids=list(eids), by=by)


async def hold(rows: Connection, user: str, eid: UUID, seconds: float) -> bool:
    """Lets an event wait before it is sent again; false when it waits no more at all."""
    return await rows.first(_HOLD, user=user, eid=eid, seconds=seconds) is not None


async def record(reader: Reader, eid: UUID) -> Record | None:
    return await reader.first(_RECORD, eid=eid)


async def lanes(reader: Reader, user: str | None, limit: int, offset: int) -> list[UserQueue]:
    """Lanes with anything in them, the deepest first."""
    return await reader.all(_LANES, user=user, row_limit=limit, row_offset=offset)


async def replay(rows: Connection, user: str | None, eids: Collection[UUID] | None) -> list[str]:
    """Lets dead letters be sent anew, all of them where no ids are named; whose they are."""
    if eids is None:
        return await rows.all(_REPLAY, user=user)
    return await rows.all(_REPLAY_SOME, user=user, eids=list(eids))


async def purge(rows: Connection, user: str | None, eids: Collection[UUID] | None) -> int:
    """Removes dead letters, all of them where no ids are named."""
    if eids is None:
        return len(await rows.all(_PURGE, user=user))
    return len(await rows.all(_PURGE_SOME, user=user, eids=list(eids)))


async def counts(reader: Reader) -> Unacknowledged:
    found = await reader.first(_COUNTS)
    assert found is not None  # noqa: S101  # an aggregate without groups has one row
    return found


async def forget_before(rows: Connection, lane: Lane, before: datetime) -> int:
    """Removes some of the events of before a time, and tells of how many."""
    eids = await rows.all(_OLD, of_lane=lane, before=before)
    return await rows.run(_FORGET, eids=eids) if eids else 0
