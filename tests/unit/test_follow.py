"""A reader of the log: each event once and in order, whatever comes between what is kept and what comes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_agent.domain.channels import Retention
from ai_agent.domain.events import EventFrame, EventType, NewEvent
from ai_agent.realtime.event_log import BUFFERED_EVENTS, TRIM_STEP, Heard, LogPage, Position
from ai_agent.realtime.follow import PAGE_EVENTS, Follower, Gone, following
from ai_agent.realtime.memory_log import MemoryLog

CHANNEL = "execution:1"
START = Position("", 0)


def several(count: int) -> list[NewEvent]:
    return [NewEvent.of(EventType.TOKEN, number) for number in range(count)]


def using(test: Callable[[MemoryLog], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            await test(MemoryLog(**options))

    asyncio.run(run())


async def heard(follower: Follower, count: int) -> list[int]:
    seqs: list[int] = []
    while len(seqs) < count:
        seqs += [event.seq for event in (await follower.next(1)).events]
    return seqs


def test_a_reader_is_told_what_is_kept_and_then_what_comes() -> None:
    async def test(log: MemoryLog) -> None:
        epoch, _ = await log.append(CHANNEL, several(PAGE_EVENTS + 5))
        async with following(log, CHANNEL, Position("", 3)) as follower:
            first = await follower.next(1)
            assert (first.epoch, len(first.events), first.events[0].seq) == (epoch, PAGE_EVENTS, 4)
            assert await heard(follower, 2) == [PAGE_EVENTS + 4, PAGE_EVENTS + 5]
            assert (await follower.next(0.01)).events == []
            await log.append(CHANNEL, several(2))
            assert await heard(follower, 2) == [PAGE_EVENTS + 6, PAGE_EVENTS + 7]
            assert follower.position == (epoch, PAGE_EVENTS + 7)

    using(test)


def test_a_reader_of_an_empty_channel_hears_its_first_event_and_its_epoch() -> None:
    async def test(log: MemoryLog) -> None:
        async with following(log, CHANNEL, START) as follower:
            assert (await follower.next(0.01))[:2] == ("", [])
            epoch, _ = await log.append(CHANNEL, several(1))
            batch = await follower.next(1)
            assert (batch.epoch, [event.seq for event in batch.events]) == (epoch, [1])

    using(test)


def test_a_position_of_a_numbering_that_nobody_knows_is_gone() -> None:
    async def test(log: MemoryLog) -> None:
        await log.append(CHANNEL, several(5))
        async with following(log, CHANNEL, Position("another", 2)) as follower:
            with pytest.raises(Gone) as gone:
                await follower.next(0.01)
        assert (gone.value.page.top, gone.value.page.floor) == (5, 1)

    using(test)


@pytest.mark.parametrize("seq", [6, 10**9])
def test_a_reader_who_is_beyond_the_top_goes_on_from_there(seq: int) -> None:
    async def test(log: MemoryLog) -> None:
        epoch, _ = await log.append(CHANNEL, several(5))
        async with following(log, CHANNEL, Position("", seq)) as follower:
            assert await follower.next(0.01) == (epoch, [], 5)
            await log.append(CHANNEL, several(1))
            assert await heard(follower, 1) == [6]

    using(test)


def test_a_position_before_what_is_kept_is_gone_and_the_one_at_its_edge_is_not() -> None:
    async def test(log: MemoryLog) -> None:
        await log.append(CHANNEL, several(10 + TRIM_STEP))
        floor = (await log.read(CHANNEL, START, 0)).floor
        assert floor > 2
        async with following(log, CHANNEL, Position("", floor - 1)) as follower:
            assert (await follower.next(0)).events[0].seq == floor
            follower.go_to(Position("", floor - 2))
            with pytest.raises(Gone):
                await follower.next(0)

    using(test, retained=lambda _: Retention(10, 60))


def test_a_reader_who_is_slow_misses_nothing_and_holds_little() -> None:
    async def test(log: MemoryLog) -> None:
        async with following(log, CHANNEL, START) as follower:
            await follower.next(0)
            for _ in range(10):
                await log.append(CHANNEL, several(BUFFERED_EVENTS // 3))
            assert len(follower._subscription._heard.events) <= BUFFERED_EVENTS
            total = 10 * (BUFFERED_EVENTS // 3)
            assert await heard(follower, total) == list(range(1, total + 1))

    using(test)


def test_a_reader_to_whom_nothing_is_delivered_reads_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(MemoryLog):
        """Tells nobody what is appended, as a broker that lost its subscribers."""

        async def append(self, channel: str, events: Any, *, fence: int = 0) -> Position:
            listening, self._subscribers = self._subscribers, type(self._subscribers)()
            try:
                return await super().append(channel, events, fence=fence)
            finally:
                self._subscribers = listening

    async def run() -> None:
        log = Deaf()
        await log.append(CHANNEL, several(1))
        async with following(log, CHANNEL, START) as follower:
            assert await heard(follower, 1) == [1]
            await log.append(CHANNEL, several(1))
            assert (await follower.next(0.01)).events == []
            monkeypatch.setattr("time.monotonic", lambda: 1e12)
            assert await heard(follower, 1) == [2]

    asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(1, 30), max_size=5)), max_size=12))
def test_whatever_is_dropped_doubled_or_late_each_event_is_told_once_and_in_order(
    moments: list[tuple[int, list[int]]],
) -> None:
    """The log is right; what is delivered besides is any mess."""

    async def test(log: MemoryLog) -> None:
        events = [EventFrame(CHANNEL, n, e.eid, e.type, e.ts, e.data) for n, e in enumerate(several(30), 1)]
        top = 0

        async def read(channel: str, since: Position, limit: int) -> LogPage:
            return LogPage("e", top, 1, since.seq, events[since.seq : min(since.seq + limit, top)])

        log.read = read  # type: ignore[method-assign]
        async with following(log, CHANNEL, START) as follower:
            told: list[int] = []
            for more, delivered in moments:
                top = min(top + more, 30)
                heard = Heard("e", [events[number - 1] for number in delivered if number <= top])
                follower._subscription.deliver(heard, 1)
                told += [event.seq for event in (await follower.next(0)).events]
            follower.go_to(follower.position)
            told += [event.seq for event in (await follower.next(0)).events]
        assert told == list(range(1, top + 1))

    using(test)


def test_what_is_told_is_what_was_said() -> None:
    async def test(log: MemoryLog) -> None:
        await log.append(CHANNEL, several(3))
        async with following(log, CHANNEL, START) as follower:
            batch = await follower.next(0)
            assert [msgspec.json.decode(event.data) for event in batch.events] == [0, 1, 2]

    using(test)
