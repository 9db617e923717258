"""The event log of one process, in its memory: for tests, and as the plainest form of what a log does."""

import contextlib
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ai_agent.domain.events import EventFrame, NewEvent
from ai_agent.realtime.event_log import Fenced, LogPage, Position, Subscription


class _Channel:
    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.events: list[EventFrame] = []
        self.fence = 0
        self.expires_at: float | None = None


class MemoryLog:
    def __init__(self) -> None:
        self._channels: defaultdict[str, _Channel] = defaultdict(_Channel)
        self._subscribers: defaultdict[str, set[Subscription]] = defaultdict(set)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        known = self._channels[channel]
        seqs = {event.eid: event.seq for event in known.events}
        new = [event for event in events if event.eid not in seqs]
        if new and 0 < fence < known.fence:
            raise Fenced
        known.fence = max(known.fence, fence)
        first = len(known.events) + 1
        frames = [EventFrame(channel, n, e.eid, e.type, e.ts, e.data) for n, e in enumerate(new, first)]
        known.events += frames
        for subscriber in self._subscribers.get(channel, ()):
            subscriber.deliver(frames)
        seqs |= {frame.eid: frame.seq for frame in frames}
        return Position(known.epoch, seqs[events[-1].eid] if events else len(known.events))

    async def read(self, channel: str, after: int, limit: int) -> LogPage:
        if channel not in self._channels:
            return LogPage("", 0, 1, [])
        known = self._channels[channel]
        return LogPage(known.epoch, len(known.events), 1, known.events[after : after + limit])

    @contextlib.contextmanager
    def subscribe(self, channel: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscribers[channel].add(subscription)
        try:
            yield subscription
        finally:
            self._subscribers[channel].discard(subscription)
            if not self._subscribers[channel]:
                del self._subscribers[channel]

    async def expire(self, channel: str, seconds: float) -> None:
        self._channels[channel].expires_at = time.monotonic() + seconds

    async def forget_expired(self) -> int:
        now = time.monotonic()
        expired = [name for name, known in self._channels.items() if known.expires_at and known.expires_at < now]
        for name in expired:
            del self._channels[name]
        return len(expired)
