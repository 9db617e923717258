"""An event log whose server loses its last moments, forgets its first ones, and whose news get lost and mixed up."""

import secrets
from collections.abc import Sequence

from ai_agent.domain.channels import Retention
from ai_agent.domain.events import NewEvent
from ai_agent.realtime.event_log import Heard, LogPage, Position, still_holds
from ai_agent.realtime.memory_log import MemoryLog


class ShakyLog(MemoryLog):
    """Of one channel. While it is `mute` nobody hears of what is appended."""

    def __init__(self, channel: str):
        super().__init__(lambda _: Retention(100_000, 3600))
        self.channel = channel
        self.mute = False
        self.away = False
        self.bounds: dict[str, int] = {}
        self._unheard: list[Heard] = []

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        known = self._known(channel)
        frames = known.add(events)
        heard = Heard(known.epoch, frames)
        if self.mute:
            self._unheard.append(heard)
        else:
            self._subscribers.deliver(channel, heard)
        return Position(known.epoch, known.top)

    async def read(self, channel: str, since: Position, limit: int) -> LogPage:
        known = self._channels.get(channel)
        if known is None:
            return await super().read(channel, since, limit)
        after = still_holds(since, known.epoch, known.top, self.bounds)
        if after is None:
            return LogPage(known.epoch, known.top, known.floor, None, [])
        first = max(after - known.floor + 1, 0)
        return LogPage(known.epoch, known.top, known.floor, after, known.events[first : first + limit])

    def deliver_late(self, *, backwards: bool = False) -> None:
        """What was appended while it was mute, maybe in the wrong order."""
        unheard, self._unheard = self._unheard, []
        for heard in reversed(unheard) if backwards else unheard:
            self._subscribers.deliver(self.channel, heard)

    def reconnect(self) -> None:
        """The broker is there again: who knows what was missed."""
        self._unheard.clear()
        self._subscribers.miss()

    def lose(self, count: int) -> list[NewEvent]:
        """A server that was restarted without its last events: the numbering goes on under a new name."""
        known = self._known(self.channel)
        count = min(count, len(known.events))
        lost = known.events[len(known.events) - count :]
        del known.events[len(known.events) - count :]
        known.top -= count
        for event in lost:
            del known.seqs[event.eid]
        self.bounds = {epoch: min(bound, known.top) for epoch, bound in self.bounds.items()}
        self.bounds[known.epoch] = known.top
        known.epoch = secrets.token_hex(4)
        return [NewEvent(event.type, event.data, event.eid, event.ts) for event in lost]

    def forget_epochs(self) -> None:
        """A numbering that nobody knows any more."""
        self.bounds.clear()
        self._known(self.channel).epoch = secrets.token_hex(4)

    def keep(self, count: int) -> None:
        """Trims all but the newest."""
        self._known(self.channel).trim(count)
