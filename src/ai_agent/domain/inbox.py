"""A user's queue: what has to reach somebody who may be away. It is kept until one of their clients acknowledges it."""

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Annotated, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import Input, JsonObject, StoredJson, StoredObject
from ai_agent.domain.pages import Filter, Page

IN_FLIGHT = 256
"""So many events a client may have that it has not acknowledged."""
DAY = 86_400.0
LONGEST_SECONDS = 7 * DAY


class Lane(IntEnum):
    """Each is numbered by itself and keeps its order; what is urgent overtakes the rest."""

    URGENT = 0
    NORMAL = 1
    BULK = 2


class LaneRetention(NamedTuple):
    """How many of the newest events a lane keeps, and for how many seconds, acknowledged or not."""

    events: int
    seconds: float


RETENTION = {
    Lane.URGENT: LaneRetention(5000, LONGEST_SECONDS),
    Lane.NORMAL: LaneRetention(5000, LONGEST_SECONDS),
    Lane.BULK: LaneRetention(2000, DAY),
}


class Envelope(msgspec.Struct, frozen=True):
    """What is on its way to a queue, as the outbox holds it in an event's place."""

    lane: Lane
    data: StoredJson
    sender: str | None = None
    """Who may ask what became of it, besides the user; None for what the server itself says."""
    expires_at: datetime | None = None


class EventDeliveryStatus(StrEnum):
    """How far an event came."""

    ACCEPTED = "accepted"
    STORED = "stored"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    EXPIRED = "expired"
    DEAD = "dead"


class EventDelivery(msgspec.Struct):
    """What became of an event. `tries` counts how often it was sent; `acknowledged_by` is the client that has it."""

    eid: UUID
    status: EventDeliveryStatus
    type: str
    user_id: str
    lane: Lane | None
    seq: int | None
    accepted_at: datetime
    stored_at: datetime | None = None
    sent_at: datetime | None = None
    tries: int = 0
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    expires_at: datetime | None = None
    dead_at: datetime | None = None


class Recipient(Input):
    """Exactly one: a user (the subject of their credentials), the owner and the watchers of a session, or everyone."""

    user_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    session_id: UUID | None = None
    everyone: bool = False

    def check(self) -> list[FieldError]:
        named = [self.user_id is not None, self.session_id is not None, self.everyone]
        return [] if sum(named) == 1 else [FieldError("", "Name exactly one of user_id, session_id and everyone")]


class Notify(Input):
    """What to say to whom. `expires_in` is in seconds: after that nobody is told any more."""

    to: Recipient
    title: Annotated[str, Meta(min_length=1, max_length=500)]
    body: Annotated[str, Meta(max_length=10_000)] | None = None
    data: JsonObject = {}
    lane: Lane = Lane.NORMAL
    expires_in: Annotated[float, Meta(gt=0, le=LONGEST_SECONDS)] | None = None


class PublishEvent(Input):
    """An event of an application's own."""

    type: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.-]{0,63}(?!\n)$")]
    data: JsonObject = {}


class Accepted(msgspec.Struct):
    """The event is kept, and will be told. `eid` is its id."""

    eid: UUID


class UserQueue(msgspec.Struct):
    """A lane of a user's queue: how many events wait, since when, and how many are dead letters."""

    user_id: str
    lane: Lane
    depth: int
    oldest_at: datetime | None
    dead_letters: int


class UserQueuePage(Page):
    """Lanes of a list."""

    items: list[UserQueue]


class DeadLetter(msgspec.Struct):
    """An event that was sent as often as may be, and that nobody acknowledged."""

    eid: UUID
    user_id: str
    lane: Lane
    seq: int
    type: str
    data: StoredObject
    tries: int
    created_at: datetime
    dead_at: datetime


class DeadLetterPage(Page):
    """Dead letters of a list."""

    items: list[DeadLetter]


class DeadLetterFilter(Filter, frozen=True, kw_only=True):
    user_id: str | None = None
    is_dead: bool = True


class DeadLetters(Input):
    """Which dead letters: some of them, a user's, or all with neither."""

    user_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    eids: Annotated[list[UUID], Meta(min_length=1, max_length=1000)] | None = None


class DeadLetterCount(msgspec.Struct):
    """How many they were."""

    count: int


class Durations(msgspec.Struct):
    """Seconds, as the upper bounds of a histogram's buckets; null where nothing was measured, or it was beyond all."""

    count: int
    p50: float | None
    p99: float | None


class EventMetrics(msgspec.Struct):
    """What this process has done with events since it started; `unacknowledged` and below are of all processes."""

    published: int
    delivered: int
    replayed: int
    redeliveries: int
    connections: int
    subscriptions: int
    publish_seconds: Durations
    delivery_seconds: Durations
    acknowledge_seconds: Durations
    unacknowledged: int
    dead_letters: int
    oldest_unacknowledged_at: datetime | None
    outbox_oldest_at: datetime | None
