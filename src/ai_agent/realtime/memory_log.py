"""The event log of one process, in its memory: for tests, and as the plainest form of what a log does."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence

from ai_agent.domain.events import EventFrame, NewEvent
from ai_agent.realtime.event_log import (
    FORGOTTEN,
    KEPT_EVENTS,
    KEPT_SECONDS,
    METADATA_FACTOR,
    NOTHING,
    TRIM_STEP,
    Fenced,
    LogPage,
    Position,
    Subscribers,
    Subscription,
)


class _Channel:
    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.events: list[EventFrame] = []
        self.seqs: dict[object, int] = {}
        self.top = 0
        self.fence = 0
        self.seconds = KEPT_SECONDS
        self.expires_at = time.time() + KEPT_SECONDS

    @property
    def floor(self) -> int:
        return self.top - len(self.events) + 1

    def trim(self, kept: int) -> None:
        for event in self.events[: len(self.events) - kept]:
            del self.seqs[event.eid]
        del self.events[: len(self.events) - kept]


class MemoryLog:
    def __init__(self, *, kept: int = KEPT_EVENTS) -> None:
        self._kept = kept
        self._channels: dict[str, _Channel] = {}
        self._subscribers = Subscribers()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        known = self._channels.get(channel) or self._channels.setdefault(channel, _Channel())
        new = list({event.eid: event for event in events if event.eid not in known.seqs}.values())
        if new and (known.fence == FORGOTTEN or 0 < fence < known.fence):
            raise Fenced
        known.fence = max(known.fence, fence)
        known.expires_at = time.time() + known.seconds
        frames = [EventFrame(channel, n, e.eid, e.type, e.ts, e.data) for n, e in enumerate(new, known.top + 1)]
        known.events += frames
        known.top += len(frames)
        known.seqs |= {frame.eid: frame.seq for frame in frames}
        self._subscribers.deliver(channel, frames)
        position = Position(known.epoch, known.seqs[events[-1].eid] if events else known.top)
        if len(known.events) >= self._kept + TRIM_STEP:
            known.trim(self._kept)
        return position

    async def read(self, channel: str, after: int, limit: int) -> LogPage:
        known = self._channels.get(channel)
        if known is None:
            return NOTHING
        first = max(after - known.floor + 1, 0)
        return LogPage(known.epoch, known.top, known.floor, known.events[first : first + limit])

    @contextlib.asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[Subscription]:
        subscription = self._subscribers.add(channel)
        try:
            yield subscription
        finally:
            self._subscribers.remove(channel, subscription)

    async def expire(self, channel: str, seconds: float) -> None:
        if known := self._channels.get(channel):
            known.seconds, known.expires_at = seconds, time.time() + seconds

    async def forget(self, channels: Sequence[str]) -> None:
        for name in channels:
            if known := self._channels.get(name):
                known.trim(0)
                known.fence, known.seconds, known.expires_at = FORGOTTEN, KEPT_SECONDS, time.time()

    async def forget_expired(self) -> int:
        at, forgotten = time.time(), 0
        for name, known in list(self._channels.items()):
            if known.expires_at + (METADATA_FACTOR - 1) * known.seconds < at:
                del self._channels[name]
            elif known.events and known.expires_at < at:
                known.trim(0)
                forgotten += 1
        return forgotten
