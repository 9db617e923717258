"""The subscription to the user's own queue, without I/O: every event once, acknowledged until the server knows."""

from collections.abc import Iterator
from uuid import UUID

from ai_agent.client.channel_state import ChannelState
from ai_agent.client.events import EventMap
from ai_agent.client.notices import Gap, Live, Notice
from ai_agent.client.seen import Seen
from ai_agent.domain.frames import Ack, GapFrame, Resume, Subscribe, Subscribed
from ai_agent.domain.frames import Live as LiveFrame
from ai_agent.domain.frames import Resumed as ResumedFrame

EIDS_AT_ONCE = 256


class QueueState(ChannelState):
    """The server keeps what was not acknowledged, so there is no position: each subscription begins with all that."""

    def __init__(self, wanted: Subscribe):
        super().__init__(wanted)
        self._delivered = Seen()
        self._acknowledged = Seen()
        self._to_say: dict[UUID, None] = {}

    def acknowledge(self, eid: UUID) -> None:
        self._acknowledged.is_new(eid)
        self._to_say[eid] = None

    def acknowledgements(self) -> Iterator[Ack]:
        """What is to be said of what the application has done with."""
        eids, self._to_say = list(self._to_say), {}
        for start in range(0, len(eids), EIDS_AT_ONCE):
            yield Ack(ch=self.ch, eids=eids[start : start + EIDS_AT_ONCE])

    def resume(self) -> Resume | None:
        return None

    def subscribed(self, _: Subscribed | ResumedFrame) -> Iterator[Notice]:
        self.asked = None
        yield from ()

    def event(self, frame: EventMap) -> Iterator[Notice]:
        if frame.eid in self._acknowledged:
            self._to_say[frame.eid] = None  # It was not heard the first time.
        elif self._delivered.is_new(frame.eid):
            yield frame.typed("")

    def live(self, frame: LiveFrame) -> Iterator[Notice]:
        if self.asked is None:
            yield Live(self.ch, frame.seq)

    def gap(self, frame: GapFrame) -> Iterator[Notice]:
        yield Gap(ch=self.ch, first=frame.from_, last=frame.to, reason=frame.reason)
