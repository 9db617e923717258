"""What this process has appended and a server that dies may still lose, to be told again then.

A server writes to its disk, and to its replicas, a moment after it has answered. So what it has answered counts as kept
when it answers again some time later, on the same connection.
"""

import time
from collections import deque
from typing import NamedTuple


class Group(NamedTuple):
    """Events that are appended together, or not at all: of each its eid, and what follows its number in JSON."""

    fence: int
    events: list[tuple[bytes, bytes]]


class _Channel:
    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.groups: deque[Group] = deque()
        self.doubtful = False


class Unconfirmed:
    """`seconds` is how long a server may take. What is done `doubtful` is to be appended again."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._channels: dict[str, _Channel] = {}
        self._order: deque[tuple[float, str]] = deque()
        self._steady_since = self._kept_until = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._channels)

    @property
    def kept_until(self) -> float:
        """What was answered before this moment of the monotonic clock is kept, whatever happens to the server."""
        return self._kept_until if self._channels else time.monotonic() - self._seconds

    def expected(self, channel: str) -> str:
        """The epoch in which all still is; empty when nothing is at stake, or it is told again anyway."""
        known = self._channels.get(channel)
        return known.epoch if known and not known.doubtful else ""

    def again(self, channel: str) -> list[Group]:
        """What has to be appended before anything else, oldest first."""
        known = self._channels.get(channel)
        return list(known.groups) if known and known.doubtful else []

    def doubt(self, channel: str) -> None:
        """Its epoch has changed."""
        self._steady_since = time.monotonic()
        if known := self._channels.get(channel):
            known.doubtful = True

    def doubt_all(self) -> list[str]:
        """Another server may be at the other end now. Answers the channels that something is at stake of."""
        for channel in self._channels:
            self.doubt(channel)
        self._steady_since = time.monotonic()
        return list(self._channels)

    def appended(self, channel: str, epoch: str, groups: list[Group]) -> None:
        """The channel has these, and all from before, in this epoch."""
        if known := self._channels.get(channel):
            known.epoch, known.doubtful = epoch, False
        elif groups:
            known = self._channels[channel] = _Channel(epoch)
        for group in groups:
            self._order.append((time.monotonic(), channel))
            self._channels[channel].groups.append(group)

    def answered(self, asked_at: float) -> None:
        """The server is there, and was asked at this moment: what is old enough is kept."""
        until = asked_at - self._seconds
        if until < self._steady_since:
            return
        self._kept_until = until
        while self._order and self._order[0][0] <= until:
            _, channel = self._order.popleft()
            groups = self._channels[channel].groups
            groups.popleft()
            if not groups:
                del self._channels[channel]
