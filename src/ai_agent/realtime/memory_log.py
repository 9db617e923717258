"""The event log of one process, in its memory: for tests, and as the plainest form of what a log does."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence

from ai_agent.domain.channels import Retention, retention
from ai_agent.domain.events import EventFrame, NewEvent
from ai_agent.realtime.event_log import (
    FORGOTTEN,
    METADATA_FACTOR,
    TRIM_STEP,
    Fenced,
    Heard,
    LogPage,
    Position,
    Subscribers,
    Subscription,
    still_holds,
)


class _Channel:
    def __init__(self, name: str, retained: Retention) -> None:
        self.name = name
        self.epoch = secrets.token_hex(4)
        self.events: list[EventFrame] = []
        self.seqs: dict[object, int] = {}
        self.top = 0
        self.fence = 0
        self.kept, self.seconds = retained
        self.expires_at = time.time() + self.seconds

    @property
    def floor(self) -> int:
        return self.top - len(self.events) + 1

    def add(self, events: Sequence[NewEvent]) -> list[EventFrame]:
        new = list({event.eid: event for event in events if event.eid not in self.seqs}.values())
        frames = [EventFrame(self.name, n, e.eid, e.type, e.ts, e.data) for n, e in enumerate(new, self.top + 1)]
        self.events += frames
        self.top += len(frames)
        self.seqs |= {frame.eid: frame.seq for frame in frames}
        self.expires_at = time.time() + self.seconds
        return frames

    def trim(self, kept: int) -> None:
        for event in self.events[: len(self.events) - kept]:
            del self.seqs[event.eid]
        del self.events[: len(self.events) - kept]


class MemoryLog:
    def __init__(self, retained: Callable[[str], Retention] = retention) -> None:
        self._retained = retained
        self._channels: dict[str, _Channel] = {}
        self._subscribers = Subscribers()

    @property
    def kept_until(self) -> float:
        return time.monotonic()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def _known(self, name: str) -> _Channel:
        return self._channels.get(name) or self._channels.setdefault(name, _Channel(name, self._retained(name)))

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        known = self._known(channel)
        refused = known.fence == FORGOTTEN or 0 < fence < known.fence
        if refused and any(event.eid not in known.seqs for event in events):
            raise Fenced
        known.fence = max(known.fence, fence)
        frames = known.add(events)
        self._subscribers.deliver(channel, Heard(known.epoch, frames))
        position = Position(known.epoch, known.seqs[events[-1].eid] if events else known.top)
        if len(known.events) >= known.kept + TRIM_STEP:
            known.trim(known.kept)
        return position

    async def read(self, channel: str, since: Position, limit: int) -> LogPage:
        known = self._channels.get(channel)
        if known is None:
            return LogPage("", 0, 1, still_holds(since, "", 0, {}), [])
        after = still_holds(since, known.epoch, known.top, {})
        if after is None:
            return LogPage(known.epoch, known.top, known.floor, None, [])
        first = max(after - known.floor + 1, 0)
        return LogPage(known.epoch, known.top, known.floor, after, known.events[first : first + limit])

    @contextlib.asynccontextmanager
    async def subscribe(self, channel: str, news: Callable[[], None] | None = None) -> AsyncIterator[Subscription]:
        subscription = self._subscribers.add(channel, news)
        try:
            yield subscription
        finally:
            self._subscribers.remove(channel, subscription)

    async def expire(self, channel: str, seconds: float) -> None:
        if known := self._channels.get(channel):
            known.seconds, known.expires_at = seconds, time.time() + seconds

    async def forget(self, channel: str, farewell: NewEvent | None = None) -> None:
        known = self._known(channel)
        if known.fence == FORGOTTEN:
            return
        known.trim(0)
        known.fence = FORGOTTEN
        self._subscribers.deliver(channel, Heard(known.epoch, known.add([farewell] if farewell else [])))

    async def forget_expired(self) -> int:
        at, forgotten = time.time(), 0
        for name, known in list(self._channels.items()):
            if known.expires_at + (METADATA_FACTOR - 1) * known.seconds < at:
                del self._channels[name]
            elif known.events and known.expires_at < at:
                known.trim(0)
                forgotten += 1
        return forgotten
