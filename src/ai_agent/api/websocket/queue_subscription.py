"""A client's subscription to its user's queue: what it was sent and did not acknowledge, and when that is due again."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog

from ai_agent.api.websocket.errors import BadFrame
from ai_agent.api.websocket.protocol import Codec, Message
from ai_agent.api.websocket.shown import Shown
from ai_agent.api.websocket.subscriptions import RETRY_SECONDS, Subscription
from ai_agent.domain.channels import Channel
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import EventFrame
from ai_agent.domain.frames import GapFrame, Live, Subscribed
from ai_agent.domain.inbox import IN_FLIGHT, Lane
from ai_agent.observability.realtime_metrics import DELIVERIES, GAPS
from ai_agent.realtime.follow import CHECK_SECONDS
from ai_agent.realtime.inbox import Delivery, Inbox

EPOCH = "queue"
"""The numbering of a queue never changes."""
LATE_SECONDS = 0.05
"""So much behind its time an event is sent again, so that the database's clock is past it, too."""

REFILL_SECONDS = 0.02

log = structlog.get_logger()


class _Sent(NamedTuple):
    lane: int
    seq: int
    due: float
    """When it is sent again, on the loop's clock."""


class QueueSubscription:
    """`client` is who acknowledges. At most IN_FLIGHT events are sent that were not."""

    gone = False
    live = True

    def __init__(
        self,
        name: str,
        channel: Channel,
        user: str,
        inbox: Inbox,
        shown: Shown,
        client: str,
        ready: Callable[[Subscription], None],
    ):
        self.name = name
        self.channel = channel
        self.closed = False
        self.told_live = False
        self.filling = False
        self._user = user
        self._inbox = inbox
        self._shown = shown
        self._client = client
        self._ready = ready
        self._after = tuple(0 for _ in Lane)
        self._sent: dict[UUID, _Sent] = {}
        self._read: Delivery | None = None
        self._marked = True
        """Whether it is waiting to be taken from, or to be filled; at first to begin."""
        self._news = True
        """Whether something may have come that was not looked for."""
        self._writing = asyncio.Lock()
        self._more = False
        """Whether there may be more than there was room for."""
        self._timer: asyncio.TimerHandle | None = None
        self._ends = AsyncExitStack()

    async def begin(self) -> Subscribed:
        """Hears of what comes from here on. Raises ServiceUnavailable."""
        await self._ends.enter_async_context(self._inbox.listening(self._user, self.news))
        await self._inbox.bury(self._user)
        return Subscribed(ch=self.name, epoch=EPOCH, seq=0, top=0, floor=1, recovered=True)

    def start(self) -> None:
        self._ready(self)

    async def close(self) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._ends.aclose()

    def hide(self, hidden: tuple[str, ...]) -> None:
        self._shown.hide(hidden)

    def news(self) -> None:
        """There may be something to tell."""
        self._news = True
        self._mark()

    def take(self, codec: Codec) -> list[Message] | None:
        if self._read is None:
            return None
        read, self._read, self._marked = self._read, None, False
        messages = [codec.frame(gap) for gap in self._gaps(read.expired)]
        messages += [codec.event(event) for event in read.events]
        if read.events:
            DELIVERIES.add(len(read.events), read.events[-1].ts)
        if not read.more and not self.told_live:
            self.told_live = True
            messages.append(codec.frame(Live(ch=self.name, seq=0)))
        if self._news:
            self._mark()
        return messages

    async def fill(self) -> None:
        """Looks what is to be told, until the database answers."""
        self.filling = True
        while True:
            try:
                read = self._read = await self._look()
            except ServiceUnavailable as error:
                log.warning("queue_cannot_be_read", reason=error.message)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.filling = False
                self._ready(self)
                break
        await self._count(read.events)

    async def acknowledge(self, lane: int | None, seq: int | None, eids: Collection[UUID]) -> int:
        """All of a lane up to a number, or single events; how many waited. Raises BadFrame for neither, or both."""
        if (lane is None) != (seq is None) or bool(eids) == (seq is not None):
            raise BadFrame("Acknowledge up to a seq of a lane, or eids", field="seq")
        sent = self._sent
        done = list(eids) or [
            eid for eid, one in sent.items() if one.lane == lane and seq is not None and one.seq <= seq
        ]
        taken = {eid: sent.pop(eid) for eid in done if eid in sent}
        self._refill()
        try:
            async with self._writing:
                if lane is None or seq is None:
                    return await self._inbox.acknowledge(self._user, eids, self._client)
                return await self._inbox.acknowledge_until(self._user, Lane(lane), seq, done, self._client)
        except BaseException:
            sent.update(taken)  # They come again, when they are due.
            raise

    async def hold(self, eid: UUID, seconds: float) -> bool:
        """Lets an event come again, not before so many seconds; false when it waits no more."""
        async with self._writing:  # Behind the counting of the try that it answers.
            waits = await self._inbox.hold(self._user, eid, seconds)
        if waits and eid in self._sent:
            self._sent[eid] = self._sent[eid]._replace(due=self._later(seconds))
            self._arm()
        return waits

    async def _look(self) -> Delivery:
        at = asyncio.get_running_loop().time()
        due = [eid for eid, sent in self._sent.items() if sent.due <= at]
        room = IN_FLIGHT - len(self._sent)
        self._news = False
        read = await self._inbox.deliver(self._user, self._after, room, due, self._shown)
        self._after = read.last
        # What is due and does not come again was acknowledged by another client, or has expired.
        for eid in due:
            self._sent.pop(eid, None)
        self._note(read)
        self._more = read.more
        self._news = self._news or (read.more and len(self._sent) <= IN_FLIGHT // 2)
        self._arm()
        return read

    def _note(self, read: Delivery) -> None:
        for event in read.events:
            assert isinstance(event.lane, int)  # noqa: S101  # those of a queue have one
            self._sent[event.eid] = _Sent(event.lane, event.seq, self._later(self._inbox.try_seconds))
        for eid, (lane, seq, seconds) in read.held.items():
            self._sent[eid] = _Sent(lane, seq, self._later(seconds))

    def _gaps(self, expired: list[tuple[int, int]]) -> list[msgspec.Struct]:
        """The runs of numbers in what has expired."""
        gaps: list[GapFrame] = []
        for lane, seq in expired:
            if gaps and gaps[-1].lane == lane and gaps[-1].to == seq - 1:
                gaps[-1].to = seq
            else:
                gaps.append(GapFrame(ch=self.name, from_=seq, to=seq, reason="expired", lane=lane))
        for gap in gaps:
            GAPS.labels(gap.reason).inc()
        return list(gaps)

    async def _count(self, events: list[EventFrame]) -> None:
        if not events:
            return
        try:
            async with self._writing:  # Two that change the same rows might wait for each other, or overtake.
                await self._inbox.sent(events)
        except ServiceUnavailable as error:
            log.warning("tries_not_counted", channel=self.name, reason=error.message)

    def _refill(self) -> None:
        """Looks for more when there is room for it."""
        if self._more and len(self._sent) <= IN_FLIGHT // 2:
            self.news()
        elif self._more:
            self._arm()

    def _mark(self) -> None:
        if not self._marked:
            self._marked = True
            self._ready(self)

    def _later(self, seconds: float) -> float:
        return asyncio.get_running_loop().time() + seconds + LATE_SECONDS

    def _arm(self) -> None:
        """Wakes it when the first of what was sent is due, and now and then, for news that were not heard."""
        loop = asyncio.get_running_loop()
        at = min((sent.due for sent in self._sent.values()), default=loop.time() + CHECK_SECONDS)
        if self._more and len(self._sent) < IN_FLIGHT:
            at = loop.time() + REFILL_SECONDS  # Many acknowledgements are worth one look.
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed:
            self._timer = loop.call_at(min(at, loop.time() + CHECK_SECONDS), self.news)
