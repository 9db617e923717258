"""The event log, of each kind by the same tests: what is appended is there once, in order, for whoever reads."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import pytest

from ai_agent.domain.channels import Retention
from ai_agent.domain.errors import ConfigurationError, ServiceUnavailable
from ai_agent.domain.events import EventFrame, EventType, NewEvent
from ai_agent.realtime import events_file, redis_appends, redis_log
from ai_agent.realtime.event_log import BUFFERED_EVENTS, TRIM_STEP, EventLog, Fenced, Position, Subscription
from ai_agent.realtime.follow import following
from ai_agent.realtime.memory_log import MemoryLog
from ai_agent.realtime.redis_log import RedisLog
from ai_agent.realtime.redis_script import Keys
from ai_agent.realtime.sqlite_log import SqliteLog
from ai_agent.storage.redis import connect
from tests.fault_proxy import FaultProxy
from tests.servers import ValkeyServer

Result = TypeVar("Result")

KEPT = 1500
CHANNEL = "execution:1"


def retained(_: str) -> Retention:
    return Retention(KEPT, 86_400)


class Logs:
    """Handles of one log, as several processes have them. That of memory has only one, and does not survive it."""

    def __init__(self, make: Callable[[], EventLog], *, expires_by_itself: bool = False):
        self.make = make
        self.expires_by_itself = expires_by_itself

    @asynccontextmanager
    async def handle(self) -> AsyncIterator[EventLog]:
        log = self.make()
        await log.open()
        try:
            yield log
        finally:
            await log.close()


def in_memory() -> Logs:
    log = MemoryLog(retained)
    return Logs(lambda: log)


def in_file(folder: Path) -> Logs:
    return Logs(lambda: SqliteLog(folder / "events.db", retained))


def in_redis(url: str, name: str = "") -> Logs:
    """Of a deployment of its own, or of that name."""
    name = name or uuid4().hex[:8]
    return Logs(lambda: RedisLog(connect(url), name, retained), expires_by_itself=True)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> Logs:
    if request.param == "redis":
        server: ValkeyServer = request.getfixturevalue("valkey")
        return in_redis(server.url)
    return in_file(tmp_path) if request.param == "sqlite" else in_memory()


def using(logs: Logs, count: int, test: Callable[..., Awaitable[None]]) -> None:
    """Runs a test with handles of the log."""

    async def run() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(20):
            await test(*[await stack.enter_async_context(logs.handle()) for _ in range(count)])

    asyncio.run(run())


def said(text: str) -> NewEvent:
    return NewEvent.of(EventType.TOKEN, {"text": text})


def several(count: int, start: int = 1) -> list[NewEvent]:
    return [said(str(number)) for number in range(start, start + count)]


def seqs(events: list[EventFrame]) -> list[int]:
    return [event.seq for event in events]


def texts(events: list[EventFrame]) -> list[str]:
    return [msgspec.json.decode(event.data)["text"] for event in events]


async def heard(subscription: Subscription, count: int) -> list[EventFrame]:
    events: list[EventFrame] = []
    while len(events) < count:
        new = await subscription.next(5)
        assert new is not None
        assert new.events, f"only {len(events)} events came"
        events += new.events
    return events


def test_a_channel_of_which_nothing_was_told_is_empty(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        page = await log.read(CHANNEL, Position("", 0), 10)
        assert (page.epoch, page.top, page.floor, page.events) == ("", 0, 1, [])

    using(logs, 1, test)


def test_an_event_is_read_as_it_was_appended(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        event = said("Grüße, 世界 \u2028")
        position = await log.append(CHANNEL, [event])
        page = await log.read(CHANNEL, Position("", 0), 10)
        assert position == (page.epoch, 1)
        assert page.events == [EventFrame(CHANNEL, 1, event.eid, event.type, event.ts, event.data)]

    using(logs, 1, test)


def test_events_are_numbered_by_channel_and_read_from_a_position_up_to_a_limit(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        await log.append("execution:other", several(3))
        assert (await log.append(CHANNEL, several(5))).seq == 5
        await log.append(CHANNEL, several(3, 6))
        page = await log.read(CHANNEL, Position("", 2), 4)
        assert (seqs(page.events), page.top) == ([3, 4, 5, 6], 8)
        assert texts(page.events) == ["3", "4", "5", "6"]
        assert (await log.read(CHANNEL, Position("", 0), 0)).events == []
        assert (await log.read(CHANNEL, Position("", 0), 0)).top == 8
        assert (
            (await log.read(CHANNEL, Position("", 8), 10)).events
            == (await log.read(CHANNEL, Position("", 99), 10)).events
            == []
        )
        assert (await log.read(CHANNEL, Position("", 99), 10)).top == 8

    using(logs, 1, test)


def test_an_event_that_is_appended_twice_is_there_once_where_it_was_first(logs: Logs) -> None:
    async def test(log: EventLog, other: EventLog) -> None:
        first, second, third = several(3)
        await log.append(CHANNEL, [first, second])
        assert (await other.append(CHANNEL, [first])).seq == 1
        assert (await other.append(CHANNEL, [second, third, third])).seq == 3
        assert (await log.append(CHANNEL, [third, first])).seq == 1
        assert texts((await log.read(CHANNEL, Position("", 0), 10)).events) == ["1", "2", "3"]

    using(logs, 2, test)


def test_a_worker_that_lost_its_run_is_refused_and_what_it_told_before_is_not_refused(logs: Logs) -> None:
    async def test(log: EventLog, other: EventLog) -> None:
        old = said("old")
        await log.append(CHANNEL, [old], fence=1)
        await other.append(CHANNEL, [said("new")], fence=2)
        for late in ([said("late")], [old, said("late")]):
            with pytest.raises(Fenced):
                await log.append(CHANNEL, late, fence=1)
        assert (await log.append(CHANNEL, [old], fence=1)).seq == 1
        await log.append(CHANNEL, [said("from no worker")])
        await other.append(CHANNEL, [said("newer")], fence=2)
        assert texts((await log.read(CHANNEL, Position("", 0), 10)).events) == ["old", "new", "from no worker", "newer"]

    using(logs, 2, test)


def test_one_that_is_refused_does_not_hold_up_those_beside_it(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        await log.append(CHANNEL, several(1), fence=2)
        channels = [CHANNEL if number % 3 == 0 else f"execution:{number}" for number in range(30)]
        told = [log.append(channel, several(1), fence=1) for channel in channels]
        results = await asyncio.gather(*told, return_exceptions=True)
        assert [isinstance(result, Fenced) for result in results] == [channel == CHANNEL for channel in channels]

    using(logs, 1, test)


def test_appends_of_two_processes_at_once_leave_no_gap_and_no_double(logs: Logs) -> None:
    async def test(log: EventLog, other: EventLog) -> None:
        events = several(16)
        handles = (log, other)
        positions = await asyncio.gather(*(handles[n % 2].append(CHANNEL, [e]) for n, e in enumerate(events)))
        assert sorted(position.seq for position in positions) == list(range(1, 17))
        assert len({position.epoch for position in positions}) == 1
        page = await log.read(CHANNEL, Position("", 0), 100)
        assert {event.eid: event.seq for event in page.events} == {
            event.eid: position.seq for event, position in zip(events, positions, strict=True)
        }

    using(logs, 2, test)


def test_appends_of_one_process_keep_their_order(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        await asyncio.gather(*(log.append(CHANNEL, [event]) for event in several(18)))
        assert texts((await log.read(CHANNEL, Position("", 0), 100)).events) == [str(number) for number in range(1, 19)]

    using(logs, 1, test)


def test_a_listener_hears_what_any_process_appends_in_order_and_nothing_else(logs: Logs) -> None:
    async def test(log: EventLog, other: EventLog) -> None:
        await log.append(CHANNEL, [said("before")])
        async with log.subscribe(CHANNEL) as subscription:
            await other.append("execution:other", [said("elsewhere")])
            for number in range(2, 12):
                await (log, other)[number % 2].append(CHANNEL, [said(str(number))])
            events = await heard(subscription, 10)
            assert seqs(events) == list(range(2, 12))
            assert texts(events) == [str(number) for number in range(2, 12)]
        await log.append(CHANNEL, [said("afterwards")])
        async with log.subscribe(CHANNEL) as subscription:
            await other.append(CHANNEL, [said("again")])
            while texts(await heard(subscription, 1))[-1] != "again":
                pass  # One that is just before the block may be heard, too.

    using(logs, 2, test)


def test_whoever_listens_misses_nothing_from_the_first_moment(logs: Logs) -> None:
    """Listens and stops, again and again, while another process appends."""

    async def test(log: EventLog, other: EventLog) -> None:
        for number in range(1, 60):
            async with log.subscribe(CHANNEL) as subscription:
                await other.append(CHANNEL, [said(str(number))])
                assert texts(await heard(subscription, 1)) == [str(number)]

    using(logs, 2, test)


def test_a_listener_that_is_too_slow_is_told_to_read(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        async with log.subscribe(CHANNEL) as subscription:
            await log.append(CHANNEL, several(BUFFERED_EVENTS + 1))
            assert await subscription.next(5) is None
            await log.append(CHANNEL, [said("after that")])
            assert texts(await heard(subscription, 1)) == ["after that"]

    using(logs, 1, test)


def test_a_silent_channel_lets_its_listener_go_on_after_a_time(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        async with log.subscribe(CHANNEL) as subscription:
            assert (await subscription.next(0.01)) == ("", [])

    using(logs, 1, test)


def test_the_oldest_events_of_a_long_channel_go_and_the_floor_tells(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        events = several(KEPT + TRIM_STEP + 5)
        for start in range(0, len(events), 100):
            await log.append(CHANNEL, events[start : start + 100])
        page = await log.read(CHANNEL, Position("", 0), len(events))
        assert page.top == len(events)
        assert KEPT <= len(page.events) < KEPT + TRIM_STEP
        assert page.floor == page.events[0].seq == len(events) - len(page.events) + 1
        assert texts(page.events)[-1] == str(len(events))

    using(logs, 1, test)


def test_events_expire_and_the_numbers_go_on(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        epoch, _ = await log.append(CHANNEL, several(3))
        await log.append("execution:other", several(1))
        await log.expire(CHANNEL, 0.2)
        assert await log.forget_expired() == 0
        await asyncio.sleep(0.25)
        assert await log.forget_expired() == (not logs.expires_by_itself)
        assert await log.forget_expired() == 0
        page = await log.read(CHANNEL, Position("", 0), 10)
        assert (page.epoch, page.top, page.floor, page.events) == (epoch, 3, 4, [])
        assert await log.append(CHANNEL, several(1)) == (epoch, 4)
        assert seqs((await log.read(CHANNEL, Position("", 3), 10)).events) == [4]
        assert (await log.read("execution:other", Position("", 0), 10)).top == 1

    using(logs, 1, test)


def test_what_is_known_of_a_channel_is_forgotten_ten_times_later(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        await log.append(CHANNEL, several(3))
        await log.expire(CHANNEL, 0.05)
        await asyncio.sleep(0.1)
        await log.forget_expired()
        assert (await log.read(CHANNEL, Position("", 0), 10)).top == 3
        await asyncio.sleep(0.5)
        await log.forget_expired()
        assert (await log.read(CHANNEL, Position("", 0), 10)).epoch == ""

    using(logs, 1, test)


def test_a_channel_that_is_told_more_lives_longer(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        await log.append(CHANNEL, several(1))
        await log.expire(CHANNEL, 0.3)
        await asyncio.sleep(0.2)
        await log.append(CHANNEL, several(1, 2))
        await asyncio.sleep(0.2)
        assert await log.forget_expired() == 0
        assert seqs((await log.read(CHANNEL, Position("", 0), 10)).events) == [1, 2]

    using(logs, 1, test)


def test_a_channel_that_was_forgotten_shows_nothing_and_takes_nothing(logs: Logs) -> None:
    async def test(log: EventLog, other: EventLog) -> None:
        epoch, _ = await log.append(CHANNEL, several(3), fence=1)
        await log.forget(CHANNEL)
        await log.forget("execution:unknown")
        for fence in (0, 1, 5):
            with pytest.raises(Fenced):
                await other.append(CHANNEL, [said("late")], fence=fence)
        page = await other.read(CHANNEL, Position("", 0), 10)
        assert (page.epoch, page.top, page.floor, page.events) == (epoch, 3, 4, [])
        assert (await log.read(CHANNEL, Position("", 0), 10)).events == []

    using(logs, 2, test)


def test_a_position_whose_numbering_nobody_knows_is_gone_and_one_beyond_the_top_is_not(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        epoch, _ = await log.append(CHANNEL, several(3))
        page = await log.read(CHANNEL, Position("00000000", 2), 10)
        assert (page.epoch, page.top, page.after, page.events, page.gone) == (epoch, 3, None, [], True)
        page = await log.read("execution:unknown", Position("00000000", 2), 10)
        assert (page.epoch, page.after, page.gone) == ("", None, True)
        for seq in (3, 4, 10**12):
            page = await log.read(CHANNEL, Position(epoch, seq), 10)
            assert (page.after, page.events, page.gone) == (3, [], False)

    using(logs, 1, test)


def test_a_position_before_what_is_kept_is_gone_and_the_one_at_its_edge_is_not(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        for start in range(0, KEPT + 2 * TRIM_STEP, TRIM_STEP):
            await log.append(CHANNEL, several(TRIM_STEP, start))
        floor = (await log.read(CHANNEL, Position("", 0), 1)).floor
        page = await log.read(CHANNEL, Position("", floor - 1), 2)
        assert (page.gone, seqs(page.events)) == (False, [floor, floor + 1])
        page = await log.read(CHANNEL, Position("", floor - 2), 2)
        assert (page.gone, seqs(page.events)) == (True, [floor, floor + 1])

    using(logs, 1, test)


def test_whoever_was_there_before_the_events_expired_is_told_that_they_are_gone(logs: Logs) -> None:
    async def test(log: EventLog) -> None:
        epoch, _ = await log.append(CHANNEL, several(3))
        await log.expire(CHANNEL, 0.1)
        await asyncio.sleep(0.15)
        await log.forget_expired()
        assert (await log.read(CHANNEL, Position(epoch, 2), 10)).gone
        assert not (await log.read(CHANNEL, Position(epoch, 3), 10)).gone

    using(logs, 1, test)


def test_the_last_word_of_a_channel_that_is_forgotten_is_heard_and_is_all_that_is_read(logs: Logs) -> None:
    async def test(log: EventLog, other: EventLog) -> None:
        epoch, _ = await log.append(CHANNEL, several(3))
        async with other.subscribe(CHANNEL) as subscription:
            await log.forget(CHANNEL, said("farewell"))
            await other.forget(CHANNEL, said("farewell again"))
            assert texts(await heard(subscription, 1)) == ["farewell"]
        page = await other.read(CHANNEL, Position(epoch, 3), 10)
        assert (seqs(page.events), texts(page.events), page.gone) == ([4], ["farewell"], False)
        assert (await other.read(CHANNEL, Position(epoch, 2), 10)).gone

    using(logs, 2, test)


def test_what_is_heard_and_what_is_read_are_the_same_to_the_byte(logs: Logs) -> None:
    async def test(log: EventLog, other: EventLog) -> None:
        async with other.subscribe(CHANNEL) as subscription:
            await log.append(CHANNEL, [said("Grüße, 世界 \u2028 \x1e")])
            (told,) = await heard(subscription, 1)
        (kept,) = (await other.read(CHANNEL, Position("", 0), 10)).events
        assert told == kept
        assert told.json == kept.json == msgspec.json.encode(kept)
        assert told.msgpack == kept.msgpack

    using(logs, 2, test)


WRITER = """
import asyncio, sys
from pathlib import Path
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.realtime.sqlite_log import SqliteLog

async def write(log, name):
    for number in range(1_000_000):
        text = f"{name}-{number}"
        await log.append("execution:1", [NewEvent.of(EventType.TOKEN, {"text": text})])
        print(text, flush=True)

async def main():
    log = SqliteLog(Path(sys.argv[1]))
    await log.open()
    await asyncio.gather(*(write(log, f"{sys.argv[2]}{n}") for n in range(3)))

asyncio.run(main())
"""


@contextmanager
def writer(file: Path, name: str) -> "Iterator[subprocess.Popen[str]]":
    """Another process that appends without end, and prints what it was answered."""
    command = [sys.executable, "-c", WRITER, str(file), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def printed(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


async def restarted(server: ValkeyServer) -> None:
    server.kill()
    server.start()
    await asyncio.sleep(0.05)  # Until connections have heard of it.


@contextmanager
def killed(server: ValkeyServer) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


async def when_there(ask: Callable[[], Awaitable[Result]]) -> Result:
    """Asks again, as everybody does, until the server is back."""
    while True:
        try:
            return await ask()
        except ServiceUnavailable:
            await asyncio.sleep(0.02)


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[FaultProxy]:
    proxy = FaultProxy(valkey.port)
    yield proxy
    proxy.close()


class TestRedis:
    """What only a server can do: die, and be another one."""

    def test_a_restart_begins_an_epoch_in_which_the_positions_of_before_hold(self, valkey: ValkeyServer) -> None:
        async def test(log: EventLog) -> None:
            old, _ = await log.append(CHANNEL, several(3), fence=2)
            await restarted(valkey)
            page = await log.read(CHANNEL, Position(old, 2), 10)
            assert page.epoch != old
            assert (page.after, seqs(page.events), page.gone) == (2, [3], False)
            assert await log.append(CHANNEL, several(1, 4), fence=2) == (page.epoch, 4)
            with pytest.raises(Fenced):
                await log.append(CHANNEL, several(1), fence=1)

        using(in_redis(valkey.url), 1, test)

    def test_of_a_tail_that_is_lost_each_older_position_is_taken_back_to_where_it_still_holds(
        self, valkey: ValkeyServer
    ) -> None:
        """Twice, and the second time more is lost than was there the first time."""

        logs = in_redis(valkey.url)

        async def test(log: EventLog, reader: EventLog) -> None:
            epochs = [(await log.append(CHANNEL, several(2)))[0]]
            with valkey.losing_its_tail():
                await log.append(CHANNEL, several(3, 3))
                await restarted(valkey)
                async with logs.handle() as another:  # That remembers nothing.
                    epochs.append((await another.append(CHANNEL, several(1, 6)))[0])
            async with logs.handle() as another:
                epochs.append((await another.append(CHANNEL, [said("new")]))[0])
            assert len(set(epochs)) == 3
            for epoch, seq, after in ((epochs[0], 5, 2), (epochs[0], 1, 1), (epochs[2], 3, 3)):
                page = await reader.read(CHANNEL, Position(epoch, seq), 10)
                assert (page.epoch, page.top, page.after) == (epochs[2], 3, after)
            page = await reader.read(CHANNEL, Position(epochs[1], 6), 10)
            assert page.gone  # Of that epoch itself nothing is left: it began in what was lost.

        using(logs, 2, test)

    def test_what_was_lost_is_told_again_by_whoever_told_it(self, valkey: ValkeyServer) -> None:
        async def test(log: EventLog, other: EventLog) -> None:
            old, _ = await log.append(CHANNEL, several(2))
            async with following(other, CHANNEL, Position("", 0)) as follower:
                assert texts((await follower.next(1)).events) == ["1", "2"]
                with valkey.losing_its_tail():
                    await log.append(CHANNEL, several(1, 3))
                    await other.append(CHANNEL, several(1, 4))
                    assert texts((await follower.next(1)).events)[0] == "3"
                told: set[str] = set()
                while told != {"3", "4"}:
                    batch = await when_there(lambda: follower.next(0.2))
                    assert batch.rewound_to in {None, 2}
                    told |= set(texts(batch.events))
            page = await other.read(CHANNEL, Position(old, 4), 10)
            assert (page.after, page.epoch != old) == (2, True)
            assert set(texts(page.events)) == {"3", "4"}

        using(in_redis(valkey.url), 2, test)

    def test_what_is_new_comes_behind_what_is_told_again(self, valkey: ValkeyServer) -> None:
        async def test(log: EventLog) -> None:
            await log.append(CHANNEL, several(1))
            with valkey.losing_its_tail():
                await log.append(CHANNEL, several(2, 2))
            await when_there(lambda: log.append(CHANNEL, several(1, 4)))
            page = await log.read(CHANNEL, Position("", 0), 10)
            assert texts(page.events) == ["1", "2", "3", "4"]

        using(in_redis(valkey.url), 1, test)

    def test_a_server_that_was_swapped_behind_an_open_connection_is_noticed(self, valkey: ValkeyServer) -> None:
        """As some proxies do it: here the same server gets another id, and loses what it was told."""

        async def test(log: EventLog) -> None:
            old, _ = await log.append(CHANNEL, several(2))
            _, events, eids, meta, *_ = Keys("swapped").call(CHANNEL, "read")
            for command in (f"DEL {events!s} {eids!s}", f"HSET {meta!s} top 0", "DEBUG CHANGE-REPL-ID"):
                valkey.ask(command)
            new, seq = await log.append(CHANNEL, several(1, 3))
            assert (new != old, seq) == (True, 3)
            assert texts((await log.read(CHANNEL, Position(old, 2), 10)).events) == ["1", "2", "3"]

        using(in_redis(valkey.url, "swapped"), 1, test)

    def test_a_listener_who_was_cut_off_is_told_what_came_meanwhile(
        self, valkey: ValkeyServer, proxy: FaultProxy
    ) -> None:
        """Though nothing comes afterwards that would let it see the gap."""

        async def test(log: EventLog) -> None:
            async with (
                in_redis(f"redis://127.0.0.1:{proxy.port}/0", "cut").handle() as here,
                following(here, CHANNEL, Position("", 0)) as follower,
            ):
                await follower.next(0)
                with proxy.cut():
                    await log.append(CHANNEL, [said("meanwhile")])
                    await asyncio.sleep(0.2)
                healed = time.monotonic()
                while not (batch := await when_there(lambda: follower.next(0.5))).events:
                    assert time.monotonic() - healed < 2
                assert texts(batch.events) == ["meanwhile"]

        using(in_redis(valkey.url, "cut"), 1, test)

    def test_whoever_cannot_be_sure_to_hear_everything_is_refused(self, proxy: FaultProxy) -> None:
        async def test(log: EventLog) -> None:
            async with log.subscribe("execution:other"):
                pass
            began = time.monotonic()
            with proxy.cut(), pytest.raises(ServiceUnavailable):
                async with log.subscribe(CHANNEL):
                    pass
            assert time.monotonic() - began < 1.5

        using(in_redis(f"redis://127.0.0.1:{proxy.port}/0"), 1, test)

    def test_a_channel_nobody_listens_to_any_more_is_left(self, valkey: ValkeyServer) -> None:
        def listened() -> bytes:
            return valkey.ask("PUBSUB NUMSUB ai-agent:log:left:{execution:1}:events").split()[-1]

        async def test(log: EventLog) -> None:
            async with log.subscribe(CHANNEL), log.subscribe(CHANNEL):
                assert listened() == b":1"
            while listened() != b":0":
                await asyncio.sleep(0.01)

        using(in_redis(valkey.url, "left"), 1, test)

    def test_an_emptied_server_begins_anew_and_old_positions_are_gone(self, valkey: ValkeyServer) -> None:
        async def test(log: EventLog) -> None:
            old, _ = await log.append(CHANNEL, several(2))
            valkey.ask("FLUSHALL")
            new, seq = await log.append(CHANNEL, several(1, 3))
            assert (new != old, seq) == (True, 3)
            assert (await log.read(CHANNEL, Position(old, 2), 10)).gone
            assert texts((await log.read(CHANNEL, Position("", 0), 10)).events) == ["1", "2", "3"]

        using(in_redis(valkey.url), 1, test)

    def test_no_more_than_sixteen_older_epochs_are_known(self, valkey: ValkeyServer) -> None:
        async def test(log: EventLog) -> None:
            epochs = []
            for _ in range(18):
                epochs.append((await log.append(CHANNEL, several(1)))[0])
                await restarted(valkey)
            known = [not (await log.read(CHANNEL, Position(epoch, 1), 1)).gone for epoch in epochs]
            assert known == [False] * 2 + [True] * 16

        using(in_redis(valkey.url), 1, test)

    def test_a_forgotten_script_is_told_again(self, valkey: ValkeyServer) -> None:
        async def test(log: EventLog) -> None:
            await log.append(CHANNEL, several(1))
            valkey.ask("SCRIPT FLUSH")
            positions = await asyncio.gather(*(log.append(f"execution:{n % 3}", several(1)) for n in range(9)))
            assert sorted(position.seq for position in positions) == [1, 1, 2, 2, 2, 3, 3, 3, 4]

        using(in_redis(valkey.url), 1, test)

    def test_a_server_that_is_frozen_or_dead_is_told_of_within_a_second(self, valkey: ValkeyServer) -> None:
        async def test(log: EventLog) -> None:
            await log.append(CHANNEL, several(1))
            for fault in (valkey.frozen(), killed(valkey)):
                with fault:
                    for ask in (
                        lambda: log.append(CHANNEL, several(1)),
                        lambda: log.read(CHANNEL, Position("", 0), 1),
                        lambda: log.expire(CHANNEL, 60),
                    ):
                        began = time.monotonic()
                        with pytest.raises(ServiceUnavailable):
                            await ask()
                        assert time.monotonic() - began < 1.2

        using(in_redis(valkey.url), 1, test)

    def test_an_event_of_before_counts_as_kept_when_the_server_has_answered_long_enough(
        self, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_appends, "UNCONFIRMED_SECONDS", 0.3)
        monkeypatch.setattr(redis_log, "WATCH_SECONDS", 0.05)

        async def test(log: EventLog) -> None:
            await log.append(CHANNEL, several(1))
            appended = time.monotonic()
            assert log.kept_until < appended
            with valkey.frozen():
                await asyncio.sleep(0.6)
                assert log.kept_until < appended
            while log.kept_until < appended:
                await asyncio.sleep(0.02)

        using(in_redis(valkey.url), 1, test)

    def test_deployments_that_share_a_server_do_not_meet(self, valkey: ValkeyServer) -> None:
        async def test(log: EventLog) -> None:
            await log.append(CHANNEL, several(1))
            async with in_redis(valkey.url).handle() as other:
                assert (await other.read(CHANNEL, Position("", 0), 1)).top == 0

        using(in_redis(valkey.url), 1, test)


class TestSqlite:
    """What only a file can do."""

    def test_a_machine_that_was_started_anew_begins_an_epoch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A power cut may have taken the last commits."""
        boot = tmp_path / "boot_id"
        monkeypatch.setattr(events_file, "_BOOT_ID", boot)
        epochs: list[str] = []

        async def tell(log: EventLog) -> None:
            epochs.append((await log.append(CHANNEL, several(3)))[0])

        async def lose(log: EventLog) -> None:
            page = await log.read(CHANNEL, Position(epochs[0], 9), 10)
            assert (page.after, seqs(page.events), page.epoch) == (6, [7, 8, 9], epochs[2])
            page = await log.read(CHANNEL, Position(epochs[0], 2), 2)
            assert (page.after, seqs(page.events)) == (2, [3, 4])

        for number, test in ((1, tell), (1, tell), (2, tell), (2, lose)):
            boot.write_text(str(number))
            using(in_file(tmp_path), 1, test)
        assert epochs[0] == epochs[1] != epochs[2]

    def test_a_restart_keeps_epoch_numbers_and_fence(self, tmp_path: Path) -> None:
        logs = in_file(tmp_path)
        known: dict[str, Any] = {}

        async def before(log: EventLog) -> None:
            known["position"] = await log.append(CHANNEL, several(3), fence=2)

        async def after(log: EventLog) -> None:
            assert (await log.read(CHANNEL, Position("", 0), 10)).epoch == known["position"].epoch
            with pytest.raises(Fenced):
                await log.append(CHANNEL, several(1), fence=1)
            assert await log.append(CHANNEL, several(1, 4), fence=2) == (known["position"].epoch, 4)
            assert texts((await log.read(CHANNEL, Position("", 0), 10)).events) == ["1", "2", "3", "4"]

        using(logs, 1, before)
        using(logs, 1, after)

    def test_a_kill_of_a_process_that_writes_loses_nothing_that_was_answered(self, tmp_path: Path) -> None:
        with writer(tmp_path / "events.db", "a") as first, writer(tmp_path / "events.db", "b") as second:
            answered = printed(first, 200) + printed(second, 200)
            first.kill()
            answered += printed(second, 100)  # Nobody is kept from writing by one who is dead.
            second.kill()
            answered += [line for process in (first, second) for line in process.communicate()[0].split()]

        async def test(log: EventLog) -> None:
            page = await log.read(CHANNEL, Position("", 0), 100_000)
            assert seqs(page.events) == list(range(1, page.top + 1))
            kept = texts(page.events)
            assert len(kept) == len(set(kept))
            assert set(answered) <= set(kept)
            for name in ("a0", "b2"):
                mine = [text for text in kept if text.startswith(f"{name}-")]
                assert mine == [f"{name}-{number}" for number in range(len(mine))]

        using(in_file(tmp_path), 1, test)

    def test_another_process_that_stands_still_holds_nobody_up_for_long(self, tmp_path: Path) -> None:
        async def test(log: EventLog) -> None:
            holding = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
            holding.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            with pytest.raises(ServiceUnavailable):
                await log.append(CHANNEL, [said("now")])
            assert time.monotonic() - started < 2.5
            assert (await log.read(CHANNEL, Position("", 0), 10)).top == 0
            holding.close()
            assert (await log.append(CHANNEL, [said("then")])).seq == 1

        using(in_file(tmp_path), 1, test)

    def test_many_processes_can_make_the_file_at_once(self, tmp_path: Path) -> None:
        with ExitStack() as stack:
            processes = [stack.enter_context(writer(tmp_path / "events.db", f"p{n}")) for n in range(3)]
            for n, process in enumerate(processes):
                assert printed(process, 1)[0].startswith(f"p{n}")

    def test_a_file_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "events.db").mkdir()
        with pytest.raises(ConfigurationError, match=r"events\.db"):
            using(in_file(tmp_path), 1, lambda _: asyncio.sleep(0))

    def test_whoever_listens_waits_until_the_file_is_watched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newest = events_file.newest

        def slowly(connection: sqlite3.Connection) -> int:
            time.sleep(0.1)
            return newest(connection)

        async def test(log: EventLog, other: EventLog) -> None:
            monkeypatch.setattr(events_file, "newest", slowly)
            async with log.subscribe(CHANNEL) as subscription:
                await other.append(CHANNEL, [said("at once")])
                assert texts(await heard(subscription, 1)) == ["at once"]

        using(in_file(tmp_path), 2, test)

    def test_the_file_is_watched_only_while_somebody_listens(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks: list[float] = []
        version = events_file.version

        def counted(connection: sqlite3.Connection) -> int:
            looks.append(time.monotonic())
            return version(connection)

        async def test(log: EventLog) -> None:
            monkeypatch.setattr(events_file, "version", counted)
            await log.append(CHANNEL, [said("unheard")])
            assert looks == []
            async with log.subscribe(CHANNEL):
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.05)
            count = len(looks)
            assert count > 5
            await log.append(CHANNEL, [said("unheard")])
            await asyncio.sleep(0.05)
            assert len(looks) == count

        using(in_file(tmp_path), 1, test)
