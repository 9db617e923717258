"""A client's subscription to one channel: how far it was told, what it is shown, and what is done about a gap.

Nothing is queued here. Who writes to the socket takes what comes next when the client has taken what went before, so of
a slow client's channels no more is held than a page and a bounded subscription; the rest is in the log.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Literal, Protocol
from zlib import crc32

import msgspec
import structlog

from ai_agent.api.websocket.protocol import Codec, Message
from ai_agent.api.websocket.shown import Shown
from ai_agent.domain.channels import Channel, ChannelKind
from ai_agent.domain.errors import Conflict, ServiceUnavailable
from ai_agent.domain.events import EventFrame, EventType
from ai_agent.domain.frames import EpochChanged, GapFrame, Live, OnGap, Subscribed
from ai_agent.observability.realtime_metrics import DELIVERIES, GAPS, REPLAYED
from ai_agent.realtime.event_log import LogPage, Position
from ai_agent.realtime.follow import CHECK_SECONDS, Batch, Gone

RETRY_SECONDS = 1.0
FIRST_LOOK_SECONDS = 1.0
LOOK_SECONDS = 5.0
"""How often the row of a silent run is looked at."""

_FAREWELLS = {
    ChannelKind.SESSION: EventType.SESSION_DELETED,
    ChannelKind.PRESENCE: EventType.SESSION_DELETED,
    ChannelKind.AGENT: EventType.AGENT_DELETED,
}

log = structlog.get_logger()


class Source(Protocol):
    """Where a subscription takes events from: a Follower, or an ExecutionReader."""

    @property
    def position(self) -> Position: ...

    @property
    def live(self) -> bool: ...

    def check(self) -> None: ...

    def take(self) -> Batch | None: ...

    async def fill(self) -> LogPage | None: ...

    async def recover(self, page: LogPage, *, latest: bool) -> None: ...


class Subscription(Protocol):
    """What a connection and its writer know of a subscription."""

    name: str
    channel: Channel
    closed: bool
    gone: bool
    told_live: bool
    """Whether the client has had all, at some time."""
    filling: bool

    @property
    def live(self) -> bool:
        """Whether nothing has to be read: what comes next is heard."""

    def start(self) -> None:
        """Lets events come, from here on."""

    async def close(self) -> None: ...

    def take(self, codec: Codec) -> list[Message] | None:
        """What is to be written next; None when it has to be filled first."""

    async def fill(self) -> None:
        """Reads on until there is something to take."""

    def hide(self, hidden: tuple[str, ...]) -> None:
        """What it may not be shown from now on."""


class GapRefused(Conflict):
    """What follows a position is gone, and the client wants to hear nothing else."""

    def __init__(self, page: LogPage):
        details = {"epoch": page.epoch, "floor": page.floor, "top": page.top}
        super().__init__("What follows this position is not kept any more", details=details)


class ChannelSubscription:
    """`last` and `epoch` are those of the last event that the client knows of.

    `ready` is called when there is something to take, once until it is taken.
    """

    source: Source

    def __init__(
        self, name: str, channel: Channel, shown: Shown, on_gap: OnGap, ready: Callable[["ChannelSubscription"], None]
    ):
        self.name = name
        self.channel = channel
        self.shown = shown
        self._on_gap = on_gap
        self._ready = ready
        self._marked = True
        """Whether it is waiting to be taken from, or to be filled; at first to begin."""
        self._notices: list[msgspec.Struct] = []
        self.told_live = False
        self.filling = False
        self.closed = False
        self._silent_at = -1
        self._timer: asyncio.TimerHandle | None = None
        self.epoch = ""
        self.last = 0
        self.gone = False
        """Whether the resource was deleted: nothing more will come."""
        self.ends = AsyncExitStack()

    @property
    def live(self) -> bool:
        return self.source.live

    def hide(self, hidden: tuple[str, ...]) -> None:
        """What it may not be shown from now on."""
        self.shown.hide(hidden)

    async def begin(self, *, asked: bool) -> Subscribed:
        """Reads the first page, and says where the client stands. Raises GapRefused, ServiceUnavailable.

        Only one who has `asked` for a position is told when it does not hold any more.
        """
        self.epoch, self.last = self.source.position
        recovered = True
        try:
            page = await self.source.fill()
            assert page is not None  # noqa: S101  # the first time it is the log that is asked
            epoch, seq = page.epoch, page.after or 0
            if asked:
                self.epoch = self.epoch or epoch
            else:
                self.epoch, self.last = epoch, seq
        except Gone as gone:
            page, recovered = gone.page, False
            await self._skip(page)
            epoch = self.epoch = self.source.position.epoch or page.epoch
            seq = self.last
        return Subscribed(ch=self.name, epoch=epoch, seq=seq, top=page.top, floor=page.floor, recovered=recovered)

    def start(self) -> None:
        """Lets events come, from here on."""
        self._arm(FIRST_LOOK_SECONDS)
        self._ready(self)

    async def close(self) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.ends.aclose()

    def news(self) -> None:
        """There may be something to take."""
        if not self._marked:
            self._marked = True
            self._ready(self)

    def take(self, codec: Codec) -> list[Message] | None:
        """What is to be written next; None when it has to be filled first."""
        was_live = self.source.live
        batch = self.source.take()
        if batch is None:
            return None
        self._marked = False
        if was_live and self.told_live and batch.epoch == self.epoch and not self._notices:
            return self._shown_of(batch.events, codec, live=True)
        messages = [codec.frame(notice) for notice in self._noted(batch)]
        messages += self._shown_of(batch.events, codec, live=was_live)
        if was_live and not self.told_live:
            self.told_live = True
            messages.append(codec.frame(Live(ch=self.name, seq=self.last)))
        elif not (was_live and self.told_live and self.source.live):
            self.news()  # Behind a page there may be more, which was heard meanwhile.
        return messages

    async def fill(self) -> None:
        """Reads on until there is something to take. Raises GapRefused."""
        self.filling = True
        while True:
            try:
                await self._fill()
            except ServiceUnavailable as error:
                log.warning("channel_cannot_be_read", channel=self.name, reason=error.message)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.filling = False
                self._ready(self)
                return

    async def _fill(self) -> None:
        try:
            await self.source.fill()
        except Gone as gone:
            await self._skip(gone.page)

    async def _skip(self, page: LogPage) -> None:
        """Over what is gone."""
        if self._on_gap == "fail":
            raise GapRefused(page)
        unknown = page.after is None
        first = 1 if unknown else self.last + 1
        await self.source.recover(page, latest=self._on_gap == "latest")
        self.last = self.source.position.seq
        reason: Literal["epoch", "trimmed"] = "epoch" if unknown else "trimmed"
        GAPS.labels(reason).inc()
        self._notices.append(GapFrame(ch=self.name, from_=first, to=self.last, reason=reason))

    def _noted(self, batch: Batch) -> list[msgspec.Struct]:
        """What has to be said before the events of a batch."""
        notices, self._notices = self._notices, []
        rewound_to = batch.rewound_to
        if batch.events and batch.events[0].seq <= self.last and rewound_to is None:
            rewound_to = batch.events[0].seq - 1
        if batch.epoch != self.epoch or rewound_to not in (None, self.last):
            to = msgspec.UNSET if rewound_to is None else rewound_to
            notices.append(EpochChanged(ch=self.name, epoch=batch.epoch, seq=self.last, rewound_to=to))
            self.epoch = batch.epoch
            self.last = self.last if rewound_to is None else rewound_to
        return notices

    def _shown_of(self, events: list[EventFrame], codec: Codec, *, live: bool) -> list[Message]:
        if events and events[-1].type == self._farewell:
            self.gone = True
        if not self.shown.everything:
            events = [event for event in events if event in self.shown]
        messages = []
        for event in events:
            follows = event.seq == self.last + 1
            messages.append(codec.event(event) if follows else codec.event_behind(event, self.last))
            self.last = event.seq
        if messages:
            DELIVERIES.add(len(messages), event.ts)
            if not live:
                REPLAYED.inc(len(messages))
        return messages

    @property
    def _farewell(self) -> EventType | None:
        return _FAREWELLS.get(self.channel.kind)

    def _arm(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self.channel.kind is not ChannelKind.EXECUTION:
            # All who listen to a channel look in the same moment: then theirs is one read. Channels take turns.
            phase = crc32(self.name.encode()) % CHECK_SECONDS
            seconds = CHECK_SECONDS - (loop.time() - phase) % CHECK_SECONDS
        self._timer = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Whoever has heard nothing for a while looks whether there was anything."""
        if self.last == self._silent_at and self.source.live:
            self.source.check()
            self.news()
        self._silent_at = self.last
        self._arm(LOOK_SECONDS)
