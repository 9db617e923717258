"""One reader of one channel: what is kept, then what comes, each event once and in order.

It subscribes first, then reads the log page by page until it is at the top, then takes what the subscription has. What
does not fit there, because some was dropped, overtaken or is of another epoch, is read from the log: so a reader holds
a page and a bounded subscription, however slow it is. A stream waits with `next`; a socket, which reads many channels,
calls `take` and `fill` itself.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Protocol

from ai_agent.domain.events import EventFrame
from ai_agent.realtime.event_log import EventLog, LogPage, Position, Subscription

PAGE_EVENTS = 200
CHECK_SECONDS = 30.0
"""So often the log is read although nothing seems to be missing."""


class Batch(NamedTuple):
    """Events of one epoch, in order; none when a time has passed without.

    `rewound_to` is set in the first batch after the log lost what the reader had seen last: the number of the last
    event that still counts.
    """

    epoch: str
    events: list[EventFrame]
    rewound_to: int | None = None


class Gone(Exception):
    """What follows the position is not kept any more, or nobody knows the epoch of it. `page` tells what there is."""

    def __init__(self, page: LogPage):
        super().__init__(f"epoch {page.epoch}, {page.floor} to {page.top}")
        self.page = page


class Readable(Protocol):
    """Where pages come from: a log, or what stands before it."""

    async def read(self, channel: str, since: Position, limit: int) -> LogPage: ...


class Follower:
    """`position` is that of the last event that was taken."""

    def __init__(self, log: Readable, channel: str, since: Position, subscription: Subscription):
        self._log = log
        self.channel = channel
        self._subscription = subscription
        self.go_to(since)

    def go_to(self, position: Position) -> None:
        self.position = position
        self._page: Batch | None = None
        self._filling = True

    @property
    def live(self) -> bool:
        """Whether nothing has to be read: what comes next is heard."""
        return not self._filling and self._page is None

    def check(self) -> None:
        """Lets the log be read, although nothing seems to be missing."""
        self._filling = True

    async def recover(self, page: LogPage, *, latest: bool) -> None:
        """Goes on behind what is Gone, with what is new, or with the oldest that is kept."""
        self.go_to(Position(page.epoch, page.top if latest else page.floor - 1))

    def wake(self) -> None:
        """Lets `next` answer at once."""
        self._subscription.wake()

    async def wait(self, seconds: float) -> None:
        """Up to `seconds`, until there is something to take."""
        await self._subscription.wait(seconds)

    def take(self) -> Batch | None:
        """What comes next, which may be nothing; None when the log has to be read first, with `fill`."""
        if self._page is not None:
            page, self._page = self._page, None
            return self._advance(page)
        if self._filling:
            return None
        heard = self._subscription.take()
        if heard is None:
            self._filling = True
            return None
        if not heard.events:
            self._filling = time.monotonic() >= self._check_at
            return None if self._filling else Batch(self.position.epoch, heard.events)
        return self._heard(heard.epoch, heard.events)

    async def fill(self) -> LogPage:
        """Reads a page behind the position, for `take`. Raises Gone, ServiceUnavailable."""
        page = await self._log.read(self.channel, self.position, PAGE_EVENTS)
        if page.gone:
            raise Gone(page)
        rewound_to = page.after if page.after != self.position.seq else None
        self._page = Batch(page.epoch, page.events, rewound_to)
        self._filling = bool(page.events) and page.events[-1].seq < page.top
        self._check_at = time.monotonic() + CHECK_SECONDS
        return page

    async def next(self, seconds: float) -> Batch:
        """What comes behind the position, waiting for it up to `seconds`. Raises Gone, ServiceUnavailable."""
        waited = False
        while True:
            batch = self.take()
            if batch is None:
                await self.fill()
            elif batch.events or batch.rewound_to is not None or waited:
                return batch
            else:
                await self.wait(seconds)
                waited = True

    def _heard(self, epoch: str, events: list[EventFrame]) -> Batch | None:
        """None where something is missing. The first of a channel that was empty has an epoch only the log knows."""
        before = self.position
        if events[0].seq <= before.seq:
            events = [event for event in events if event.seq > before.seq]
        seq, follows = before.seq, epoch == before.epoch
        for event in events:
            seq += 1
            follows = follows and event.seq == seq
        if not follows:
            self._filling = True
            return None
        self.position = Position(epoch, seq)
        return Batch(epoch, events)

    def _advance(self, batch: Batch) -> Batch:
        seq = self.position.seq if batch.rewound_to is None else batch.rewound_to
        self.position = Position(batch.epoch, batch.events[-1].seq if batch.events else seq)
        return batch


@contextlib.asynccontextmanager
async def following(
    log: EventLog,
    channel: str,
    since: Position,
    *,
    reads: Readable | None = None,
    news: Callable[[], None] | None = None,
) -> AsyncIterator[Follower]:
    """`reads` answers in the log's place what is read of it; `news` is called whenever there is something to take."""
    async with log.subscribe(channel, news) as subscription:
        yield Follower(reads or log, channel, since, subscription)
