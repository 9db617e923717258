"""Users' queues: what reaches a user also when they are away.

The queue lies in the database, where a change and what is told of it are committed together. The log only tells the
nodes that there is something new. Every client of the user is told everything that nobody has acknowledged yet, and one
acknowledgement is enough.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from ai_agent.domain.channels import user_channel
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import EventFrame, NewEvent
from ai_agent.domain.fields import now
from ai_agent.domain.inbox import RETENTION, Envelope, Lane
from ai_agent.observability.realtime_metrics import ACKNOWLEDGE_SECONDS, DEAD_LETTERS, REDELIVERIES
from ai_agent.realtime.event_log import EventLog
from ai_agent.storage import inbox, outbox
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.inbox import Acknowledged, Arrival, Waiting
from ai_agent.storage.outbox import Unconfirmed

NEWS = "inbox.news"
"""What the log is told: that there is something in a queue."""
APPENDS_AT_ONCE = 4

_ENVELOPE = msgspec.json.Decoder(Envelope)


class Delivery(NamedTuple):
    """What to tell a client next.

    `held` are those that it shall be told later, with the seconds until then; `expired` those that nobody wants to know
    any more; `last` has the last number that was looked at, of each lane.
    """

    events: list[EventFrame]
    held: dict[UUID, tuple[int, int, float]]
    expired: list[tuple[int, int]]
    last: tuple[int, ...]
    more: bool


class Wanted(Protocol):
    def wants(self, kind: str) -> bool:
        """Whether a client is shown events of a type."""


class Inbox:
    """`try_seconds` is how long a client has to acknowledge, `most_tries` how often it is told."""

    def __init__(self, database: Database, log: EventLog, *, try_seconds: float, most_tries: int):
        self.try_seconds = try_seconds
        self._most_tries = most_tries
        self._database = database
        self._log = log
        self._appends = asyncio.Semaphore(APPENDS_AT_ONCE)

    async def take(self, user: str, waiting: Sequence[Unconfirmed]) -> None:
        """Moves what the outbox holds into the user's lanes, once each, and tells the nodes.

        Raises ServiceUnavailable; then it is to be done again.
        """
        arrivals = sorted(map(_arrival, waiting), key=_lane)
        async with self._appends, self._database.unit_of_work() as rows:
            for lane, some in groupby(arrivals, key=_lane):
                await inbox.append(rows, user, lane, [arrival for _, arrival in some], RETENTION[lane].events)
            await outbox.remove(rows, [row.seq for row in waiting])
        with suppress(ServiceUnavailable):  # Who has lost the log looks when it is there again.
            await self.ring(user)

    async def ring(self, user: str) -> None:
        """Lets all clients of a user look."""
        await self._log.append(user_channel(user), [NewEvent.of(NEWS, None)])

    @asynccontextmanager
    async def listening(self, user: str, news: Callable[[], None]) -> AsyncIterator[None]:
        async with self._log.subscribe(user_channel(user), news):
            yield

    async def bury(self, user: str) -> None:
        """Makes dead letters of what was told often enough."""
        async with self._database.unit_of_work() as rows:
            DEAD_LETTERS.inc(await inbox.bury(rows, user, self.try_seconds, self._most_tries))

    async def deliver(
        self, user: str, after: Sequence[int], room: int, again: Collection[UUID], wanted: Wanted
    ) -> Delivery:
        """At most so many events behind a number of each lane, and those of `again` that nobody has acknowledged.

        What the client does not want is passed over, and stays.
        """
        if again:
            await self.bury(user)
        reader, wait = self._database.reader, self.try_seconds
        found = await inbox.waiting(reader, user, after, room, wait) if room else []
        last = tuple(max([after[lane], *(one.seq for one in found if one.lane == lane)]) for lane in Lane)
        repeated = await inbox.again(reader, user, again, wait) if again else []
        both, at = [*repeated, *found], now()
        held = {one.eid: (one.lane, one.seq, _seconds(one.held_until, at)) for one in both if _is_held(one, at)}
        expired = [(one.lane, one.seq) for one in both if _is_expired(one, at)]
        due = [one for one in both if not (_is_expired(one, at) or _is_held(one, at)) and wanted.wants(one.type)]
        channel = user_channel(user)
        events = [_frame(channel, one) for one in sorted(due, key=lambda one: (one.lane, one.seq))]
        return Delivery(events, held, expired, last, len(found) == room)

    async def sent(self, events: Sequence[EventFrame]) -> None:
        """Counts a try of each. It may be behind the sending: a try more than are counted does no harm."""
        REDELIVERIES.inc(sum(event.try_ != 1 for event in events))
        async with self._database.unit_of_work() as rows:
            await inbox.sent(rows, [event.eid for event in events], self.try_seconds)

    async def acknowledge_until(self, user: str, lane: Lane, seq: int, eids: Collection[UUID], by: str) -> int:
        """Takes all of a lane that were sent up to a number, as `eids` were just now; how many were waiting."""
        async with self._database.unit_of_work() as rows:
            return _count(rows, await inbox.acknowledge_until(rows, user, lane, seq, eids, by))

    async def acknowledge(self, user: str, eids: Collection[UUID], by: str) -> int:
        async with self._database.unit_of_work() as rows:
            return _count(rows, await inbox.acknowledge(rows, user, eids, by))

    async def hold(self, user: str, eid: UUID, seconds: float) -> bool:
        """Lets an event be told again, not before so many seconds; false when it waits no more."""
        async with self._database.unit_of_work() as rows:
            return await inbox.hold(rows, user, eid, seconds)

    async def forget_old(self) -> int:
        """Removes what is kept no longer, acknowledged or not."""
        removed = 0
        for lane, kept in RETENTION.items():
            before = now() - timedelta(seconds=kept.seconds)
            while True:
                async with self._database.unit_of_work() as rows:
                    step = await inbox.forget_before(rows, lane, before)
                removed += step
                if not step:
                    break
        return removed


def _arrival(row: Unconfirmed) -> tuple[Lane, Arrival]:
    envelope = _ENVELOPE.decode(row.data)
    arrival = Arrival(row.eid, row.type, envelope.data, envelope.sender, row.created_at, envelope.expires_at)
    return envelope.lane, arrival


def _lane(arrival: tuple[Lane, Arrival]) -> Lane:
    return arrival[0]


def _is_expired(one: Waiting, at: datetime) -> bool:
    return one.expires_at is not None and one.expires_at <= at


def _is_held(one: Waiting, at: datetime) -> bool:
    return one.held_until is not None and one.held_until > at


def _seconds(until: datetime | None, at: datetime) -> float:
    return 0.0 if until is None else (until - at).total_seconds()


def _frame(channel: str, one: Waiting) -> EventFrame:
    return EventFrame(
        ch=channel,
        seq=one.seq,
        eid=one.eid,
        type=one.type,
        ts=_milliseconds(one.created_at),
        data=one.data,
        lane=one.lane,
        ack=True,
        try_=one.tries,
        exp=msgspec.UNSET if one.expires_at is None else _milliseconds(one.expires_at),
    )


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _count(rows: Connection, acknowledged: list[Acknowledged]) -> int:
    """Measures how long they took, when it is committed."""

    async def observe() -> None:
        at = time.time()
        for one in acknowledged:
            ACKNOWLEDGE_SECONDS.observe(max(0.0, at - one.created_at.timestamp()))

    rows.after_commit(observe)
    return len(acknowledged)
