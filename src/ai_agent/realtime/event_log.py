"""The event log: what was told, in order, channel by channel, for everybody who asks now or later.

Every reader, of a stream or of a socket, reads from here, so all of them see the same. The log numbers the events of a
channel from 1. `epoch` names a numbering: it changes when the log may have lost what it told last, and the numbers go
on behind what is left. So of a position of before the log still knows up to where it holds.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from ai_agent.domain.events import EventFrame, NewEvent
from ai_agent.observability.realtime_metrics import CHANNELS

BUFFERED_EVENTS = 1000
BUFFERED_BYTES = 1024 * 1024
TRIM_STEP = 500
"""So many more than are kept are let grow before they are trimmed at once."""
METADATA_FACTOR = 10
"""So many times longer than events their channel's epoch, top and fence are kept."""
FORGOTTEN = 2**62
"""The fence of a channel that was forgotten: nobody's is higher."""


class Position(NamedTuple):
    """A place in a channel: the event with this number has been seen. Without an epoch it is in the current one."""

    epoch: str
    seq: int


class LogPage(msgspec.Struct, frozen=True):
    """Events behind a position.

    `top` is the channel's newest number, `floor` the oldest that is kept: 0 and 1 at first. `epoch` is empty where
    nothing was ever appended. `after` is the number that the events are behind: the one that was asked for; or a lower
    one, up to which the numbering that was asked for still holds; or None, with no events, when nobody knows that
    numbering any more. The first event is `after + 1`, unless that one is not kept any more (`floor` is higher).
    """

    epoch: str
    top: int
    floor: int
    after: int | None
    events: list[EventFrame]

    @property
    def gone(self) -> bool:
        """Whether something behind the position that was asked for is missing, or nobody knows what is behind it."""
        return self.after is None or self.after < self.floor - 1


def still_holds(since: Position, epoch: str, top: int, bounds: Mapping[str, int]) -> int | None:
    """The highest number up to which a reader's position is good; None when its epoch is unknown.

    `bounds` has the last number of each older epoch that is in the present one, too.
    """
    if since.epoch in ("", epoch):
        return min(since.seq, top)
    return None if since.epoch not in bounds else min(since.seq, bounds[since.epoch])


class Fenced(Exception):
    """Somebody with a higher fence writes to the channel now, or it was forgotten: what is from before is refused."""


class EventLog(Protocol):
    """Methods raise ServiceUnavailable when the log cannot be reached or written."""

    @property
    def kept_until(self) -> float:
        """What was appended before this moment of the monotonic clock is kept, though the log's server dies now."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        """Writes events in order, all or none, and answers where the last one is.

        One whose `eid` is there already stays where it is. Raises Fenced when a higher `fence` was used before; without
        one (0) only a forgotten channel refuses.
        """

    async def read(self, channel: str, since: Position, limit: int) -> LogPage:
        """At most `limit` events behind a position, with epoch, top and floor of the same moment."""

    def subscribe(
        self, channel: str, news: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager["Subscription"]:
        """Hears what is appended, by whichever process, from the moment that the block begins.

        `news` is called whenever there is something to take; without it, `next` of the subscription waits.
        """

    async def expire(self, channel: str, seconds: float) -> None:
        """Lets the channel's events be forgotten so many seconds after the last one of them, or after now."""

    async def forget(self, channel: str, farewell: NewEvent | None = None) -> None:
        """Shows no event of the channel any more but the last word, `farewell`, and takes none."""

    async def forget_expired(self) -> int:
        """Removes the events of channels whose time has come, and tells of how many."""


class Heard(NamedTuple):
    """Events of one epoch, in order."""

    epoch: str
    events: list[EventFrame]


_NOTHING = Heard("", [])


class Subscription:
    """Events of one channel as they come, in order. A reader that is too slow is told to read from the log.

    `news` is called whenever there is something to take.
    """

    def __init__(self, news: Callable[[], None] | None = None) -> None:
        self._news = news or self._let_go
        self._heard = _NOTHING
        self._bytes = 0
        self._missed = False
        self._changed = False
        self._waiting: asyncio.Future[None] | None = None

    def deliver(self, heard: Heard, size: int) -> None:
        """Events of `size` bytes."""
        before = self._heard
        # What comes alone is not copied: there may be many who hear it.
        self._heard = heard if not before.events else Heard(before.epoch, before.events + heard.events)
        self._bytes += size
        # Of two epochs only the log knows what of the old one still holds.
        other = self._heard.epoch != heard.epoch
        if self._missed or other or self._bytes > BUFFERED_BYTES or len(self._heard.events) > BUFFERED_EVENTS:
            self._missed = True
            self._drop()
        self._changed = True
        self._news()

    def miss(self) -> None:
        """Something may have been told that was not heard."""
        self._missed = True
        self._drop()
        self.wake()

    def _drop(self) -> None:
        self._heard, self._bytes = _NOTHING, 0

    def wake(self) -> None:
        """Lets a waiting reader look around, though there is nothing new."""
        self._changed = True
        self._news()

    def take(self) -> Heard | None:
        """What came since it was asked for last; None when some of it was dropped."""
        self._changed = False
        if self._missed:
            self._missed = False
            self._drop()
            return None
        heard, self._heard, self._bytes = self._heard, _NOTHING, 0
        return heard

    async def next(self, seconds: float) -> Heard | None:
        """As `take`, waiting up to `seconds` for something to come."""
        await self.wait(seconds)
        return self.take()

    async def wait(self, seconds: float) -> None:
        """Up to `seconds`, until there is something to take."""
        if self._changed:
            return
        # By hand: an Event inside a timeout costs twice as much, for each event of each stream.
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._let_go)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def _let_go(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Subscribers:
    """Who listens in this process, by channel."""

    def __init__(self) -> None:
        self._of: dict[str, set[Subscription]] = {}

    def __contains__(self, channel: object) -> bool:
        return channel in self._of

    def add(self, channel: str, news: Callable[[], None] | None) -> Subscription:
        subscription = Subscription(news)
        self._of.setdefault(channel, set()).add(subscription)
        CHANNELS.set(len(self._of))
        return subscription

    def remove(self, channel: str, subscription: Subscription) -> None:
        self._of[channel].discard(subscription)
        if not self._of[channel]:
            del self._of[channel]
            CHANNELS.set(len(self._of))

    def deliver(self, channel: str, heard: Heard) -> None:
        if subscriptions := self._of.get(channel):
            size = sum([len(event.data) for event in heard.events])
            for subscription in subscriptions:
                subscription.deliver(heard, size)

    def miss(self) -> None:
        """Nobody may have heard everything: all read from the log."""
        for subscriptions in self._of.values():
            for subscription in subscriptions:
                subscription.miss()
