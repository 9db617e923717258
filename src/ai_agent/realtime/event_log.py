"""The event log: what was told, in order, channel by channel, for everybody who asks now or later.

Every reader, of a stream or of a socket, reads from here, so all of them see the same. The log numbers the events of a
channel from 1; `epoch` names the numbering, and another one means that positions of before count no more.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from ai_agent.domain.events import EventFrame, NewEvent

BUFFERED_EVENTS = 1000
KEPT_EVENTS = 10_000
TRIM_STEP = 500
"""So many more are let grow before they are trimmed at once."""
KEPT_SECONDS = 30 * 86_400.0
"""Of a channel whose time nobody has set, since its last event."""
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
    nothing was ever appended.
    """

    epoch: str
    top: int
    floor: int
    events: list[EventFrame]


NOTHING = LogPage("", 0, 1, [])


class Fenced(Exception):
    """Somebody with a higher fence writes to the channel now, or it was forgotten: what is from before is refused."""


class EventLog(Protocol):
    """Methods raise ServiceUnavailable when the log cannot be reached or written."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        """Writes events in order, all or none, and answers where the last one is.

        One whose `eid` is there already stays where it is. Raises Fenced when a higher `fence` was used before; without
        one (0) only a forgotten channel refuses.
        """

    async def read(self, channel: str, after: int, limit: int) -> LogPage:
        """At most `limit` events behind a number, with epoch, top and floor of the same moment."""

    def subscribe(self, channel: str) -> AbstractAsyncContextManager["Subscription"]:
        """Hears what is appended, by whichever process, from the moment that the block begins."""

    async def expire(self, channel: str, seconds: float) -> None:
        """Lets the channel's events be forgotten so many seconds after the last one of them, or after now."""

    async def forget(self, channels: Sequence[str]) -> None:
        """Shows no event of the channels any more, and takes none."""

    async def forget_expired(self) -> int:
        """Removes the events of channels whose time has come, and tells of how many."""


class Subscription:
    """Events of one channel as they come, in order. A reader that is too slow is told to read from the log."""

    def __init__(self) -> None:
        self._events: list[EventFrame] = []
        self._overflown = False
        self._changed = False
        self._waiting: asyncio.Future[None] | None = None

    def deliver(self, events: Iterable[EventFrame]) -> None:
        self._events.extend(events)
        if len(self._events) > BUFFERED_EVENTS:
            self._events.clear()
            self._overflown = True
        self.wake()

    def wake(self) -> None:
        """Lets a waiting reader look around, though there is nothing new."""
        self._changed = True
        if self._waiting is not None:
            _let_go(self._waiting)

    async def next(self, seconds: float) -> list[EventFrame] | None:
        """What came since, waiting for it up to `seconds`; None when some of it was dropped."""
        if not self._changed:
            await self._wait(seconds)
        self._changed = False
        if self._overflown:
            self._overflown = False
            self._events = []
            return None
        events, self._events = self._events, []
        return events

    async def _wait(self, seconds: float) -> None:
        """By hand: an Event inside a timeout costs twice as much, for each event of each stream."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, _let_go, self._waiting)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None


def _let_go(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


class Subscribers:
    """Who listens in this process, by channel."""

    def __init__(self) -> None:
        self._of: dict[str, set[Subscription]] = {}

    def __contains__(self, channel: object) -> bool:
        return channel in self._of

    def add(self, channel: str) -> Subscription:
        subscription = Subscription()
        self._of.setdefault(channel, set()).add(subscription)
        return subscription

    def remove(self, channel: str, subscription: Subscription) -> None:
        self._of[channel].discard(subscription)
        if not self._of[channel]:
            del self._of[channel]

    def deliver(self, channel: str, events: Sequence[EventFrame]) -> None:
        for subscription in self._of.get(channel, ()):
            subscription.deliver(events)
