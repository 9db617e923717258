"""One reader of one channel: what is kept, then what comes, each event once and in order.

It subscribes first, then reads the log page by page until it is at the top, then takes what the subscription has. What
does not fit there, because some was dropped or overtaken, is read from the log: so a reader holds a page and a bounded
subscription, however slow it is.
"""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from ai_agent.domain.events import EventFrame
from ai_agent.realtime.event_log import EventLog, LogPage, Position, Subscription

PAGE_EVENTS = 200
CHECK_SECONDS = 30.0
"""So often the log is read although nothing seems to be missing."""


class Batch(NamedTuple):
    """Events of one epoch, in order; none when a time has passed without."""

    epoch: str
    events: list[EventFrame]


class Gone(Exception):
    """The position is no place in the log any more: of another epoch, before what is kept, or beyond the top."""

    def __init__(self, page: LogPage):
        super().__init__(f"epoch {page.epoch}, {page.floor} to {page.top}")
        self.page = page


def holds(page: LogPage, position: Position) -> bool:
    """Whether a reader who is there can go on with what is behind it."""
    return position.epoch in ("", page.epoch) and page.floor - 1 <= position.seq <= page.top


class Follower:
    def __init__(self, log: EventLog, channel: str, since: Position, subscription: Subscription):
        self._log = log
        self.channel = channel
        self._subscription = subscription
        self.go_to(since)

    def go_to(self, position: Position) -> None:
        self.position = position
        self._filling = True

    def wake(self) -> None:
        """Lets `next` answer at once."""
        self._subscription.wake()

    async def next(self, seconds: float) -> Batch:
        """What comes behind the position, waiting for it up to `seconds`. Raises Gone, ServiceUnavailable."""
        while True:
            due = self._filling or time.monotonic() >= self._check_at
            if due and (kept := await self._read()):
                return self._advance(kept)
            heard = await self._subscription.next(seconds)
            new = [event for event in heard or () if event.seq > self.position.seq]
            if heard == [] or self._follows(new):
                return self._advance(new)
            self._filling = heard is None or bool(new)

    async def _read(self) -> list[EventFrame]:
        page = await self._log.read(self.channel, self.position.seq, PAGE_EVENTS)
        if not holds(page, self.position):
            raise Gone(page)
        self.position = Position(page.epoch, self.position.seq)
        self._filling = bool(page.events) and page.events[-1].seq < page.top
        self._check_at = time.monotonic() + CHECK_SECONDS
        return page.events

    def _follows(self, new: list[EventFrame]) -> bool:
        """Whether nothing is missing. The first of a channel that was empty has an epoch that only the log knows."""
        first = self.position.seq + 1
        return bool(new and self.position.epoch) and new[0].seq == first and new[-1].seq == first + len(new) - 1

    def _advance(self, events: list[EventFrame]) -> Batch:
        if events:
            self.position = Position(self.position.epoch, events[-1].seq)
        return Batch(self.position.epoch, events)


@contextlib.asynccontextmanager
async def following(log: EventLog, channel: str, since: Position) -> AsyncIterator[Follower]:
    async with log.subscribe(channel) as subscription:
        yield Follower(log, channel, since, subscription)
