"""Redis killed, frozen, cut off, replaced by a replica that missed the end, while two nodes tell and others listen.

What was answered is there, once and in order, and everybody hears of it; two seconds after a fault all is as before.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from uuid import uuid4

import msgspec
import pytest

from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import EventFrame, EventType, NewEvent
from ai_agent.realtime.event_log import Position
from ai_agent.realtime.follow import Batch, Follower, Gone, following
from ai_agent.realtime.redis_log import RedisLog
from ai_agent.realtime.unconfirmed import Unconfirmed
from ai_agent.storage.redis import connect
from tests.fault_proxy import FaultProxy
from tests.servers import ValkeyServer

CHANNELS = [f"session:{number}" for number in range(4)]
LIVE_SECONDS = 2.0

Result = TypeVar("Result")
Text = tuple[str, int]
"""Who told it, and the how-manieth of a channel it is of that one."""


@dataclass
class Told:
    """What nodes told of one channel, and what was answered."""

    answered: dict[str, int] = field(default_factory=dict)


@dataclass
class Heard:
    """What one reader heard of one channel, each event where it was heard first."""

    texts: list[Text] = field(default_factory=list)
    at: list[tuple[str, float, float]] = field(default_factory=list)
    """Who told, when it was said, when it was heard; by the clock of the wall."""
    seen: set[object] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    last: Position = field(default_factory=lambda: Position("", 0))

    def take(self, batch: Batch) -> None:
        if batch.rewound_to is not None:
            self.last = Position(batch.epoch, batch.rewound_to)
        for event in batch.events:
            if event.seq != self.last.seq + 1:
                self.wrong.append(f"{event.seq} behind {self.last}")
            self.last = Position(batch.epoch, event.seq)
            if event.eid not in self.seen:
                self.seen.add(event.eid)
                self.texts.append(text := text_of(event))
                self.at.append((text[0], event.ts / 1000, time.time()))


def text_of(event: EventFrame) -> Text:
    node, number = msgspec.json.decode(event.data)
    return node, number


def faults(told: Told, texts: list[Text], who: str) -> list[str]:
    """What is lost, doubled or out of order of what a channel was told; empty when nothing is."""
    wrong = []
    for node, count in told.answered.items():
        numbers = [number for name, number in texts if name == node]
        if lost := set(range(count)) - set(numbers):
            wrong.append(f"{who}: of {node} {sorted(lost)} are lost")
        if numbers != sorted(set(numbers)):
            wrong.append(f"{who}: {node} is out of order or doubled: {numbers}")
    return wrong


class Load:
    """Two nodes that tell all channels something again and again, and readers of each channel on a third node."""

    def __init__(self, url: str):
        self._url = url
        self._name = uuid4().hex[:8]
        self._stopping = False
        self.told = {channel: Told() for channel in CHANNELS}
        self.heard = {channel: Heard() for channel in CHANNELS}

    @asynccontextmanager
    async def node(self) -> AsyncIterator[RedisLog]:
        log = RedisLog(connect(self._url), self._name)
        await log.open()
        try:
            yield log
        finally:
            await log.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            first, second, third = [await stack.enter_async_context(self.node()) for _ in range(3)]
            readers = [asyncio.create_task(self._read(third, channel)) for channel in CHANNELS]
            nodes = {"first": first, "second": second}
            tellers = [
                asyncio.create_task(self._tell(log, name, channel))
                for name, log in nodes.items()
                for channel in CHANNELS
            ]
            await asyncio.sleep(0.5)
            try:
                yield
                self._stopping = True
                await asyncio.gather(*tellers)
                await asyncio.sleep(0.3)
            finally:
                for task in (*tellers, *readers):
                    task.cancel()
                ends = await asyncio.gather(*tellers, *readers, return_exceptions=True)
                broken = [end for end in ends if isinstance(end, Exception)]
                assert not broken, broken

    async def _tell(self, log: RedisLog, name: str, channel: str) -> None:
        """What is not answered is told again, as the outbox does."""
        number = 0
        while not self._stopping:
            event = NewEvent.of(EventType.MESSAGE_CREATED, [name, number])
            await when_there(partial(log.append, channel, [event]))
            number += 1
            self.told[channel].answered[name] = number
            await asyncio.sleep(0.01)

    async def _read(self, log: RedisLog, channel: str) -> None:
        heard = self.heard[channel]
        async with following(log, channel, Position("", 0)) as follower:
            while True:
                heard.take(await when_there(lambda: _next(follower, heard)))

    async def kept(self, channel: str) -> list[Text]:
        async with self.node() as log:
            page = await log.read(channel, Position("", 0), 100_000)
        assert [event.seq for event in page.events] == list(range(1, page.top + 1))
        assert len({event.eid for event in page.events}) == page.top
        return [text_of(event) for event in page.events]

    async def faults(self) -> list[str]:
        wrong = []
        for channel in CHANNELS:
            wrong += faults(self.told[channel], await self.kept(channel), f"the log of {channel}")
            wrong += faults(self.told[channel], self.heard[channel].texts, f"the reader of {channel}")
            wrong += self.heard[channel].wrong
        return wrong

    def live_after(self, healed: float) -> float:
        """How many seconds after this moment of the wall's clock every reader had heard something newer of each."""
        return max(
            min(at for name, said, at in self.heard[channel].at if name == node and said > healed) - healed
            for channel in CHANNELS
            for node in ("first", "second")
        )


async def _next(follower: Follower, heard: Heard) -> Batch:
    try:
        return await follower.next(0.2)
    except Gone as gone:
        # As a client that begins from what there is.
        follower.go_to(Position("", gone.page.floor - 1))
        heard.last = Position(gone.page.epoch, gone.page.floor - 1)
        return Batch(gone.page.epoch, [])


async def when_there(ask: Callable[[], Awaitable[Result]]) -> Result:
    while True:
        try:
            return await ask()
        except ServiceUnavailable:
            await asyncio.sleep(0.02)


def strike(url: str, *blows: Callable[[], None]) -> tuple[Load, list[str]]:
    """Faults one after the other under load, and what came of it. Each has to be over two seconds after its end."""

    async def run() -> tuple[Load, list[str]]:
        load = Load(url)
        async with asyncio.timeout(40):
            async with load.running():
                for blow in blows:
                    await asyncio.to_thread(blow)
                    healed = time.time()
                    await asyncio.sleep(LIVE_SECONDS)
                    seconds = load.live_after(healed)
                    print(f"live again {seconds:.2f} s after the fault")
                    assert seconds < LIVE_SECONDS
            return load, await load.faults()

    return asyncio.run(run())


def killed(server: ValkeyServer) -> None:
    server.kill()
    time.sleep(0.3)
    server.start()


def frozen(server: ValkeyServer) -> None:
    with server.frozen():
        time.sleep(2)


def without_its_script(server: ValkeyServer) -> None:
    server.ask("SCRIPT FLUSH")


def without_its_tail(server: ValkeyServer) -> None:
    with server.losing_its_tail():
        time.sleep(0.7)


@pytest.mark.parametrize("blows", [(killed,) * 3, (frozen,), (without_its_script,), (without_its_tail,) * 2])
def test_nothing_is_lost_doubled_or_out_of_order(
    valkey: ValkeyServer, blows: tuple[Callable[[ValkeyServer], None], ...]
) -> None:
    load, wrong = strike(valkey.url, *(partial(blow, valkey) for blow in blows))
    assert not wrong, "\n".join(wrong)
    assert all(count > 50 for told in load.told.values() for count in told.answered.values())


def test_nothing_is_lost_when_the_network_is_cut(valkey: ValkeyServer) -> None:
    with proxy_to(valkey) as proxy:

        def cut() -> None:
            with proxy.cut():
                time.sleep(2)

        _, wrong = strike(url_of(proxy), cut)
    assert not wrong, "\n".join(wrong)


def test_nothing_is_lost_when_a_replica_takes_over_that_missed_the_end() -> None:
    with failover() as (url, fail_over):
        _, wrong = strike(url, fail_over)
    assert not wrong, "\n".join(wrong)


def test_without_what_is_told_again_a_replica_that_missed_the_end_has_lost_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above could not fail."""
    monkeypatch.setattr(Unconfirmed, "appended", lambda *_: None)
    with failover() as (url, fail_over):
        _, wrong = strike(url, fail_over)
    assert [fault for fault in wrong if "the log" in fault and "are lost" in fault]


def url_of(proxy: FaultProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


@contextmanager
def proxy_to(server: ValkeyServer) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server.port)
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def failover() -> Iterator[tuple[str, Callable[[], None]]]:
    """Where a server is that has a replica, and what replaces it by that, behind 0.7 s that the replica missed."""
    with ExitStack() as ends:
        primary, replica = ValkeyServer(), ValkeyServer()
        ends.callback(primary.stop)
        ends.callback(replica.stop)
        link, way = ends.enter_context(proxy_to(primary)), ends.enter_context(proxy_to(primary))
        replica.ask(f"REPLICAOF 127.0.0.1 {link.port}")
        while b"master_link_status:up" not in replica.ask("INFO replication"):
            time.sleep(0.02)

        def fail_over() -> None:
            with link.cut():
                time.sleep(0.7)
                replica.ask("REPLICAOF NO ONE")
                way.lead_to(replica.port)

        yield url_of(way), fail_over
