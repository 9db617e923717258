"""The event log: what was told, in order, channel by channel, for everybody who asks now or later.

Every reader, of a stream or of a socket, reads from here, so all of them see the same. The log numbers the events of a
channel from 1; `epoch` names the numbering, and another one means that positions of before count no more.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import msgspec

from ai_agent.domain.events import EventFrame, NewEvent

BUFFERED_EVENTS = 1000


class Position(NamedTuple):
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


class Fenced(Exception):
    """Somebody with a higher fence writes to the channel now: what comes from before is refused."""


class EventLog(Protocol):
    """Methods raise ServiceUnavailable when the log cannot be reached or written."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        """Writes events in order, all or none, and answers where the last one is.

        One whose `eid` is there already stays where it is. Raises Fenced when a higher `fence` was used before; without
        one (0) nothing is refused.
        """

    async def read(self, channel: str, after: int, limit: int) -> LogPage:
        """At most `limit` events behind a number, with epoch, top and floor of the same moment."""

    def subscribe(self, channel: str) -> AbstractContextManager["Subscription"]:
        """Hears what is appended from now on, by whichever process."""

    async def expire(self, channel: str, seconds: float) -> None:
        """Lets the channel be forgotten after so many seconds."""

    async def forget_expired(self) -> int:
        """Removes channels whose time has come, and tells how many."""


class Subscription:
    """Events of one channel as they come, in order. A reader that is too slow is told to read from the log."""

    def __init__(self) -> None:
        self._events: deque[EventFrame] = deque()
        self._overflown = False
        self._changed = asyncio.Event()

    def deliver(self, events: Iterable[EventFrame]) -> None:
        self._events.extend(events)
        if len(self._events) > BUFFERED_EVENTS:
            self._events.clear()
            self._overflown = True
        self._changed.set()

    def wake(self) -> None:
        """Lets a waiting reader look around, though there is nothing new."""
        self._changed.set()

    async def next(self, seconds: float) -> list[EventFrame] | None:
        """What came since, waiting for it up to `seconds`; None when some of it was dropped."""
        if not self._changed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
        self._changed.clear()
        if self._overflown:
            self._overflown = False
            return None
        events = list(self._events)
        self._events.clear()
        return events
