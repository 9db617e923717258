"""Whatever happens to the log and to a client, nothing is lost unsaid, doubled or out of order.

A client that does what `docs/realtime.md` says reads a socket over a log that loses its tail, forgets its head and its
numberings, and whose news get lost and mixed up, while the client is slow and goes away.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from ai_agent.domain.events import NewEvent
from tests.shaky_log import ShakyLog
from tests.socket_wire import TOPIC, Wire

few = st.integers(1, 5)


class Client:
    """What a client keeps of a channel, and the rules it checks."""

    def __init__(self) -> None:
        self.epoch = ""
        self.last = 0
        self.seen: list[str] = []
        self.excused: list[range] = []
        """Numbers of events that it was told it would not hear."""

    def hear(self, frame: dict[str, Any]) -> None:
        match frame["t"]:
            case "subscribed":
                self._begin(frame)
            case "event":
                # So order holds, but where the numbering went back to before what the client had heard.
                assert frame.get("prev", frame["seq"] - 1) == self.last, (frame, self.last)
                assert "prev" not in frame, "nothing is hidden from it"
                self.last = frame["seq"]
                self._note(frame["eid"])
            case "epoch":
                assert frame["seq"] == self.last
                self.epoch = frame["epoch"]
                self.last = frame.get("rewound_to", self.last)
            case "gap":
                self.last = frame["to"]
                self.excused.append(range(frame["from"], frame["to"] + 1))
            case "live":
                assert frame["seq"] == self.last

    def _begin(self, frame: dict[str, Any]) -> None:
        if not self.epoch:
            self.epoch, self.last = frame["epoch"], frame["seq"]
            self.excused.append(range(1, self.last + 1))
        elif frame["recovered"]:
            # It may be told of a change of the numbering, which names the number that it had.
            assert frame["seq"] <= self.last
        else:
            self.epoch = frame["epoch"]

    def _note(self, eid: str) -> None:
        if eid not in self.seen[-256:]:
            self.seen.append(eid)


class Replay(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.log = ShakyLog(TOPIC)
        self.client = Client()
        self.begun = False
        self.ever: dict[int, set[str]] = {}
        """Every event that ever had a number."""

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    def told(self, tell: Callable[[], None]) -> None:
        """What the log hears, it hears in the loop."""

        async def work() -> None:
            tell()

        self.run(work())

    @initialize(on_gap=st.sampled_from(["latest", "earliest"]), before=st.integers(0, 5))
    def begin(self, on_gap: str, before: int) -> None:
        self.on_gap = on_gap
        if before:
            self.publish(before)
        self.connect()

    def connect(self) -> None:
        async def work() -> None:
            self.wire, self.begun = Wire(self.log), True
            self.running = asyncio.create_task(self.wire.connection.run())
            await self.wire.connect()
            since = {"since": {"epoch": self.client.epoch, "seq": self.client.last}} if self.client.epoch else {}
            self.wire.send({"t": "subscribe", "ch": TOPIC, "on_gap": self.on_gap, **since})

        self.run(work())

    @rule(count=few)
    def publish(self, count: int) -> None:
        self.append([NewEvent.of("news", None) for _ in range(count)])

    def append(self, events: list[NewEvent]) -> None:
        self.run(self.log.append(TOPIC, events))
        for event in self.log._known(TOPIC).events:
            self.ever.setdefault(event.seq, set()).add(str(event.eid))

    @rule(count=few, backwards=st.booleans(), lost=st.booleans())
    def publish_unheard(self, count: int, backwards: bool, lost: bool) -> None:
        """Nobody hears of it at first, or at all."""
        self.log.mute = True
        for _ in range(count):
            self.publish(1)
        self.log.mute = False
        if lost:
            self.log._unheard.clear()
        else:
            self.told(partial(self.log.deliver_late, backwards=backwards))

    @rule()
    def reconnect_broker(self) -> None:
        self.told(self.log.reconnect)

    @rule(count=few, republish=st.booleans(), noticed=st.booleans())
    def lose_the_tail(self, count: int, republish: bool, noticed: bool) -> None:
        if not self.log._channels:
            return
        lost = self.log.lose(count)
        if noticed:
            self.told(self.log.reconnect)
        if republish and lost:
            self.append(lost)

    @rule()
    def forget_the_numbering(self) -> None:
        if self.log._channels:
            self.log.forget_epochs()

    @rule(count=st.integers(0, 4))
    def trim(self, count: int) -> None:
        if self.log._channels and count < len(self.log._known(TOPIC).events):
            self.log.keep(count)

    @rule()
    def take_nothing(self) -> None:
        self.wire.takes.clear()

    @rule()
    def take_again(self) -> None:
        self.wire.takes.set()

    @rule(turns=st.integers(1, 30))
    def listen(self, turns: int) -> None:
        async def work() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(work())
        self.hear()

    @rule()
    def come_back(self) -> None:
        """What is on its way is lost with the connection."""
        self.leave()
        self.connect()

    def leave(self) -> None:
        self.wire.takes.set()
        self.wire.leave()
        self.run(self.running)

    def hear(self) -> None:
        while not self.wire._out.empty():
            self.client.hear(self.run(self.wire.receive()))

    def teardown(self) -> None:
        try:
            if self.begun:
                self.settle()
        finally:
            if self.begun:
                self.leave()
            self.loop.close()

    def settle(self) -> None:
        """When everything is well again, the client has all that the log has, but for what it was told is gone."""
        self.wire.takes.set()
        self.publish(1)
        self.told(self.log.reconnect)
        known = self.log._known(TOPIC)
        for _ in range(200):
            self.listen(5)
            if (self.client.epoch, self.client.last) == (known.epoch, known.top):
                break
        assert (self.client.epoch, self.client.last) == (known.epoch, known.top)
        excused = {eid for gap in self.client.excused for seq in gap for eid in self.ever.get(seq, ())}
        assert {str(event.eid) for event in known.events} <= {*self.client.seen, *excused}


Replay.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestReplay = Replay.TestCase
