"""One subscription, without I/O: where it stands in its channel, and what it makes of each frame."""

from collections.abc import Iterator

from ai_agent.client.events import EventMap
from ai_agent.client.notices import EpochChanged, Gap, Live, Notice
from ai_agent.client.seen import Seen
from ai_agent.domain.frames import EpochChanged as EpochFrame
from ai_agent.domain.frames import GapFrame, Resume, Since, Subscribe, Subscribed
from ai_agent.domain.frames import Live as LiveFrame
from ai_agent.domain.frames import Resumed as ResumedFrame


class Missing(Exception):
    """Something between the last event and this one was not delivered."""


class ChannelState:
    """`position` is that of the last event, None before the first answer. `asked` is the command whose answer is
    awaited: what comes before it was under way to an earlier subscription.
    """

    def __init__(self, wanted: Subscribe):
        self.ch = wanted.ch
        self.position: Since | None = None
        self.asked: int | None = None
        self.paused = False
        self._wanted = wanted
        self._seen = Seen()

    def request(self, command: int) -> Subscribe:
        """Subscribes behind the last event; at first as the application wants it."""
        self.asked = command
        wanted = self._wanted
        since, start = (wanted.since, wanted.from_) if self.position is None else (self.position, None)
        return Subscribe(id=command, ch=self.ch, since=since, from_=start, on_gap=wanted.on_gap, types=wanted.types)

    def resume(self) -> Resume | None:
        """Subscribes with the connection itself, where nothing has to be said that does not fit there."""
        if self.paused or self.position is None or self._wanted.types or self._wanted.on_gap != "latest":
            return None
        return Resume(ch=self.ch, seq=self.position.seq, epoch=self.position.epoch)

    def subscribed(self, frame: Subscribed | ResumedFrame) -> Iterator[Notice]:
        self.asked = None
        before = self.position or self._wanted.since
        self.position = Since(frame.seq, frame.epoch)
        if before is not None and before.epoch not in ("", frame.epoch):
            rewound_to = frame.seq if frame.seq < before.seq else None
            yield EpochChanged(self.ch, frame.epoch, frame.seq, rewound_to)

    def event(self, frame: EventMap) -> Iterator[Notice]:
        """Raises Missing."""
        if self.asked is not None or self.position is None or frame.seq <= self.position.seq:
            return
        if (frame.seq - 1 if frame.prev is None else frame.prev) > self.position.seq:
            raise Missing
        self.position = Since(frame.seq, self.position.epoch)
        if self._seen.is_new(frame.eid):
            yield frame.typed(self.position.epoch)

    def live(self, frame: LiveFrame) -> Iterator[Notice]:
        if self.asked is None:
            self._advance(frame.seq)
            yield Live(self.ch, frame.seq)

    def gap(self, frame: GapFrame) -> Iterator[Notice]:
        self._advance(frame.to)
        yield Gap(ch=self.ch, first=frame.from_, last=frame.to, reason=frame.reason)

    def epoch(self, frame: EpochFrame) -> Iterator[Notice]:
        before = self.position
        rewound_to = frame.rewound_to if isinstance(frame.rewound_to, int) else None
        if before is not None and before.epoch == frame.epoch and (rewound_to is None or rewound_to >= before.seq):
            return  # The answer to the subscription has told it already.
        self.position = Since(frame.seq if rewound_to is None else rewound_to, frame.epoch)
        if before is None or before.epoch:  # A channel's first epoch is no change.
            yield EpochChanged(self.ch, frame.epoch, self.position.seq, rewound_to)

    def _advance(self, seq: int) -> None:
        if self.position is not None and seq > self.position.seq:
            self.position = Since(seq, self.position.epoch)
