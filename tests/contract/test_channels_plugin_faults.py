"""What breaks Litestar's channels plugin, and does not break ours."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.channels.subscriber import Subscriber
from structlog.testing import capture_logs

from ai_agent.domain.channels import Retention, retention
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.realtime import outgoing, plugin, subscriber
from ai_agent.realtime.event_log import TRIM_STEP, LogPage, Position, Subscription
from ai_agent.realtime.log_backend import LogBackend
from ai_agent.realtime.memory_log import MemoryLog
from ai_agent.realtime.plugin import RealtimePlugin
from ai_agent.realtime.subscriber import EventsMissed

NEWS, SPORT = "topic:news", "topic:sport"


class FaultyLog(MemoryLog):
    """A log whose operations fail or wait when a test wants it."""

    def __init__(self, retained: Callable[[str], Retention] = retention) -> None:
        super().__init__(retained)
        self.append_fails = self.read_fails = self.subscriptions = 0
        self.written_though_failed = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        await self.answers.wait()
        if self.append_fails:
            self.append_fails -= 1
            if self.written_though_failed:
                await super().append(channel, events, fence=fence)
            raise ServiceUnavailable("away")
        return await super().append(channel, events, fence=fence)

    async def read(self, channel: str, since: Position, limit: int) -> LogPage:
        await self.answers.wait()
        if self.read_fails:
            self.read_fails -= 1
            raise ServiceUnavailable("away")
        return await super().read(channel, since, limit)

    @contextlib.asynccontextmanager
    async def subscribe(self, channel: str, news: Callable[[], None] | None = None) -> AsyncIterator[Subscription]:
        await self.answers.wait()
        self.subscriptions += 1
        async with super().subscribe(channel, news) as subscription:
            yield subscription


class FaultyBackend(MemoryChannelsBackend):
    """Litestar's own, with an error."""

    fails = 1

    async def publish(self, data: bytes, channels: Iterable[str]) -> None:
        if self.fails:
            self.fails -= 1
            raise ServiceUnavailable("away")
        await super().publish(data, channels)


def ours(test: Callable[[Any, FaultyLog], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        log = FaultyLog()
        async with (
            asyncio.timeout(10),
            RealtimePlugin(LogBackend(log), **({"arbitrary_channels_allowed": True} | options)) as own,
        ):
            await test(own, log)

    asyncio.run(run())


async def heard(subscriber: Subscriber, count: int) -> list[bytes]:
    events: list[bytes] = []
    async for event in subscriber.iter_events():
        events.append(event)
        if len(events) == count:
            break
    return events


async def until(happened: Callable[[], object]) -> None:
    while not happened():
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody wants to wait in a test for what takes long, as tracebacks in colours do."""
    for module in (plugin, outgoing):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(plugin, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(subscriber, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(subscriber, "JOIN_SECONDS", 0.1)
    with capture_logs():
        yield


def test_litestars_worker_dies_with_the_first_error_and_its_shutdown_hangs() -> None:
    """If this fails one day, ours has one reason less."""

    async def run() -> None:
        stock = ChannelsPlugin(FaultyBackend(), arbitrary_channels_allowed=True)
        await stock._on_startup()
        listener = await stock.subscribe(NEWS)
        stock.publish("lost", NEWS)
        stock.publish("never sent", NEWS)
        worker = stock._pub_task
        assert worker is not None
        await until(worker.done)
        assert isinstance(worker.exception(), ServiceUnavailable)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await stock._on_shutdown()
        assert listener.qsize == 0
        assert stock._sub_task is not None
        stock._sub_task.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("written", [False, True])
def test_what_could_not_be_published_is_published_later_once_and_in_order(written: bool) -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        async with own.start_subscription([NEWS, SPORT]) as listener:
            log.append_fails, log.written_though_failed = 5, written
            for number in range(600):
                own.publish(str(number), NEWS)
            assert await heard(listener, 600) == [str(number).encode() for number in range(600)]
            await own.wait_published("end", SPORT)
            assert await heard(listener, 1) == [b"end"]

    ours(test)


def test_what_waits_is_bounded_and_who_publishes_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WAITING", 3)

    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        log.append_fails = 10
        own.publish("1", [NEWS, SPORT])
        with pytest.raises(ServiceUnavailable):
            own.publish("2", [NEWS, SPORT])
        own.publish("3", NEWS)
        async with own.start_subscription([NEWS, SPORT]) as listener:
            assert sorted(await heard(listener, 3)) == [b"1", b"1", b"3"]

    ours(test)


def test_a_channel_that_takes_nothing_any_more_holds_up_no_other() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        await log.forget(NEWS)
        async with own.start_subscription(SPORT) as listener:
            own.publish("too late", NEWS)
            own.publish("one", SPORT)
            assert await heard(listener, 1) == [b"one"]
            own.publish("two", [NEWS, SPORT])
            assert await heard(listener, 1) == [b"two"]
        assert own._outgoing is not None
        await own._outgoing.sent()

    ours(test)


def test_what_fails_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "GIVE_UP_SECONDS", 0.05)

    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        log.append_fails = 10**9
        own.publish("1", NEWS)
        assert own._outgoing is not None
        await own._outgoing.sent()
        log.append_fails = 0
        async with own.start_subscription(NEWS) as listener:
            own.publish("2", NEWS)
            assert await heard(listener, 1) == [b"2"]

    ours(test)


@pytest.mark.parametrize(
    ("data", "channel"), [(b"\xff", NEWS), ("x", "news"), ("x", "other:news"), ("x" * 300_000, NEWS)]
)
def test_what_can_never_be_published_is_refused_at_once(data: Any, channel: str) -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  # the data's own error is one
            own.publish(data, [NEWS, channel])
        with pytest.raises(ValueError):  # noqa: PT011
            await own.wait_published(data, [NEWS, channel])
        assert (await log.read(NEWS, Position("", 0), 10)).events == []

    ours(test)


def test_a_bad_name_cannot_be_subscribed_to() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        with pytest.raises(ValueError, match="news"):
            await own.subscribe([NEWS, "news"])
        assert (own._channels, log._subscribers._of) == ({}, {})

    ours(test)


def test_a_subscriber_hears_what_was_said_while_the_log_could_not_be_read() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        async with own.start_subscription([NEWS, SPORT]) as listener:
            await own.wait_published("0", NEWS)
            log.read_fails = 5
            log._subscribers.miss()
            for number in range(1, 500):
                await own.wait_published(str(number), NEWS)
            assert await heard(listener, 500) == [str(number).encode() for number in range(500)]
            await own.wait_published("end", SPORT)
            assert await heard(listener, 1) == [b"end"]

    ours(test)


def test_a_subscriber_hears_what_nobody_told_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_agent.realtime.log_backend.CHECK_SECONDS", 0.01)
    monkeypatch.setattr("ai_agent.realtime.follow.CHECK_SECONDS", 0.01)

    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        async with own.start_subscription(NEWS) as listener:
            listening, log._subscribers = log._subscribers, type(log._subscribers)()
            await own.wait_published("unheard", NEWS)
            log._subscribers = listening
            assert await heard(listener, 1) == [b"unheard"]

    ours(test)


def test_a_subscriber_is_told_when_the_log_has_lost_what_it_did_not_read() -> None:
    async def run() -> None:
        log = FaultyLog(lambda _: Retention(1, 60))
        own = RealtimePlugin(LogBackend(log), arbitrary_channels_allowed=True)
        async with asyncio.timeout(10), own, own.start_subscription(NEWS) as listener:
            await own.wait_published("first", NEWS)
            assert await heard(listener, 1) == [b"first"]
            log._subscribers.miss()
            for number in range(TRIM_STEP + 3):
                await log.append(NEWS, [NewEvent.of(EventType.APPLICATION, str(number))])
            with pytest.raises(EventsMissed):
                await heard(listener, 1)
            assert (await heard(listener, 3))[0] == str(TRIM_STEP - 1).encode()

    asyncio.run(run())


def test_a_bounded_subscriber_that_is_too_slow_is_told_where_events_are_missing() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        async with own.start_subscription(NEWS) as slow, own.start_subscription(NEWS) as quick:
            for number in range(10):
                await own.wait_published(str(number), NEWS)
                assert await heard(quick, 1) == [str(number).encode()]
            assert await heard(slow, 3) == [b"0", b"1", b"2"]
            with pytest.raises(EventsMissed):
                await heard(slow, 1)
            await own.wait_published("10", NEWS)
            assert await heard(slow, 1) == [b"10"]

    ours(test, subscriber_max_backlog=3)


def test_a_task_in_the_background_that_misses_events_ends_its_block() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        async with own.start_subscription(NEWS) as slow:
            with pytest.raises(EventsMissed):
                async with slow.run_in_background(lambda _: asyncio.sleep(0.01)):
                    for number in range(10):
                        await own.wait_published(str(number), NEWS)
                    await asyncio.sleep(60)

    ours(test, subscriber_max_backlog=3)


def test_who_is_full_and_does_not_read_can_be_unsubscribed() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        listener = await own.subscribe(NEWS)
        await own.wait_published("1", NEWS)
        await own.wait_published("2", NEWS)
        await until(lambda: listener.qsize == 2)
        await own.unsubscribe(listener)
        assert await heard(listener, 1) == [b"1"]
        with pytest.raises(EventsMissed):
            await heard(listener, 1)
        assert await heard(listener, 1) == []
        await own.subscribe(NEWS, history=2)

    ours(test, subscriber_max_backlog=1)


def test_channels_are_freed_with_their_last_subscriber() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        for number in range(100):
            channels = [NEWS, f"topic:{number}"]
            async with own.start_subscription(iter(channels)), own.start_subscription(channels):
                assert set(log._subscribers._of) == set(channels)
        assert (own._channels, own._channels_of, dict(own._locks), log._subscribers._of) == ({}, {}, {}, {})

    ours(test)


def test_channels_are_freed_by_who_is_cancelled_while_he_leaves() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        listener = await own.subscribe(NEWS)
        async with own._lock(NEWS):
            leaving = asyncio.create_task(own.unsubscribe(listener))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            assert leaving.cancelled()
        await until(lambda: not log._subscribers._of)

    ours(test)


def test_the_second_subscriber_waits_until_the_first_ones_subscription_is_confirmed() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        log.answers.clear()
        first = asyncio.create_task(own.subscribe(NEWS))
        await asyncio.sleep(0)
        second = asyncio.create_task(own.subscribe(NEWS))
        await asyncio.sleep(0.01)
        assert not second.done()
        log.answers.set()
        listener = await second
        await own.wait_published("one", NEWS)
        assert await heard(listener, 1) == await heard(await first, 1) == [b"one"]
        assert log.subscriptions == 1

    ours(test)


def test_the_second_subscriber_subscribes_itself_when_the_first_one_fails_or_leaves() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        log.read_fails = 1
        results = await asyncio.gather(own.subscribe(NEWS), own.subscribe(NEWS), return_exceptions=True)
        assert isinstance(results[0], ServiceUnavailable)
        assert isinstance(results[1], Subscriber)
        _, third = await asyncio.gather(own.unsubscribe(results[1]), own.subscribe(NEWS))
        await own.wait_published("one", NEWS)
        assert await heard(third, 1) == [b"one"]

    ours(test)


def test_a_subscription_that_fails_leaves_nothing_behind() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        await own.subscribe(SPORT)
        log.read_fails = 1
        with pytest.raises(ServiceUnavailable):
            await own.subscribe([SPORT, NEWS])
        assert list(log._subscribers._of) == [SPORT]
        assert [len(subscribers) for subscribers in own._channels.values()] == [1]

    ours(test)


async def stubborn(_: bytes) -> None:
    """Does not let itself be cancelled."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
            return


@pytest.mark.parametrize("join", [True, False])
def test_a_task_that_does_not_end_is_not_waited_for_for_ever(join: bool) -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        async with own.start_subscription(NEWS) as listener, listener.run_in_background(stubborn, join=join):
            await own.wait_published("one", NEWS)
            await until(lambda: listener.qsize == 0)
        loop = asyncio.get_running_loop()
        assert loop.time() - began[0] < 0.9

    began: list[float] = []

    async def timed(own: RealtimePlugin, log: FaultyLog) -> None:
        began.append(asyncio.get_running_loop().time())
        await test(own, log)

    ours(timed)


def test_a_shutdown_does_not_hang_with_a_log_that_does_not_answer() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        listener = await own.subscribe(NEWS)
        reading = asyncio.create_task(heard(listener, 1))
        log.answers.clear()
        own.publish("one", NEWS)
        log._subscribers.miss()
        async with asyncio.timeout(3):
            await own._on_shutdown()
            assert await reading == []

    ours(test)


def test_what_waits_is_published_before_a_shutdown_ends() -> None:
    async def run() -> None:
        log = FaultyLog()
        async with RealtimePlugin(LogBackend(log), arbitrary_channels_allowed=True) as own:
            log.append_fails = 3
            for number in range(300):
                own.publish(str(number), NEWS)
        assert (await log.read(NEWS, Position("", 0), 0)).top == 300

    asyncio.run(run())


def test_others_have_their_turn_while_many_subscribers_are_served() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        listeners = [await own.subscribe(NEWS) for _ in range(1000)]
        await own.wait_published("one", NEWS)
        seen: set[int] = set()
        while 1000 not in seen:
            seen.add(sum(listener.qsize for listener in listeners))
            await asyncio.sleep(0)
        assert {512, 768} <= seen

    ours(test)


def test_a_subscriber_that_fails_does_not_keep_others_from_theirs() -> None:
    class Broken(subscriber.RealtimeSubscriber):
        def put_nowait(self, item: bytes | None) -> bool:
            if item == b"bad":
                raise ZeroDivisionError
            return super().put_nowait(item)

    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        async with own.start_subscription(NEWS) as listener:
            for text in ("bad", "good"):
                await own.wait_published(text, NEWS)
            assert await heard(listener, 1) == [b"good"]

    ours(test, subscriber_class=Broken)


def test_events_of_the_server_come_as_their_whole_frame() -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        async with own.start_subscription("session:1") as listener:
            await log.append("session:1", [NewEvent.of(EventType.MESSAGE_DELETED, {"id": 1})])
            frame = (await log.read("session:1", Position("", 0), 1)).events[0]
            assert await heard(listener, 1) == [frame.json]
            assert b'"data":{"id":1}' in frame.json

    ours(test)


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (b'{"a": [1]}', b'{"a": [1]}'),
        (b"[]", b"[]"),
        (b"5", b'"5"'),
        (b"{", b'"{"'),
        (b"[1%s]" % (b"0" * 30), b'"[1%s]"' % (b"0" * 30)),
        (b'{\n"a":1}', b'"{\\n\\"a\\":1}"'),
    ],
)
def test_sockets_get_an_object_where_one_was_published(payload: bytes, data: bytes) -> None:
    async def test(own: RealtimePlugin, log: FaultyLog) -> None:
        await own.wait_published(payload, NEWS)
        frame = (await log.read(NEWS, Position("", 0), 1)).events[0]
        assert (frame.type, bytes(frame.data)) == ("application.event", data)
        assert frame.msgpack

    ours(test)
