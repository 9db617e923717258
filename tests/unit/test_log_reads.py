"""Equal reads are one, unless it has begun; and only so many are made at once."""

import asyncio

import pytest

from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.realtime.event_log import LogPage, Position
from ai_agent.realtime.log_reads import AT_ONCE, LogReads

START = Position("", 0)


class Log:
    """Answers nobody until it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = asyncio.Event()
        self.fails = False

    async def read(self, channel: str, since: Position, limit: int) -> LogPage:
        self.asked.append(channel)
        await self.answers.wait()
        if self.fails:
            raise ServiceUnavailable("away")
        return LogPage("e", len(self.asked), 1, since.seq, [])


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_asks_the_same_at_once_shares_an_answer() -> None:
    async def test() -> None:
        log = Log()
        reads = LogReads(log)
        both = [asyncio.create_task(reads.read("a", START, 10)) for _ in range(2)]
        other = asyncio.create_task(reads.read("a", Position("", 1), 10))
        await soon()
        log.answers.set()
        first, second = await asyncio.gather(*both)
        assert first is second
        assert (await other).after == 1
        assert log.asked == ["a", "a"]

    asyncio.run(test())


def test_nobody_joins_a_read_that_has_begun() -> None:
    """It may have looked before the joiner subscribed: what came between would be in neither."""

    async def test() -> None:
        log = Log()
        reads = LogReads(log)
        first = asyncio.create_task(reads.read("a", START, 10))
        await soon()
        second = asyncio.create_task(reads.read("a", START, 10))
        await soon()
        log.answers.set()
        assert await first is not await second

    asyncio.run(test())


def test_only_so_many_are_made_at_once() -> None:
    async def test() -> None:
        log = Log()
        reads = LogReads(log)
        tasks = [asyncio.create_task(reads.read(str(n), START, 10)) for n in range(AT_ONCE + 5)]
        await soon()
        assert len(log.asked) == AT_ONCE
        log.answers.set()
        await asyncio.gather(*tasks)
        assert len(log.asked) == AT_ONCE + 5

    asyncio.run(test())


def test_who_leaves_disturbs_nobody() -> None:
    async def test() -> None:
        log = Log()
        reads = LogReads(log)
        leaver, stayer = (asyncio.create_task(reads.read("a", START, 10)) for _ in range(2))
        await soon()
        leaver.cancel()
        await soon()
        log.answers.set()
        assert (await stayer).epoch == "e"

    asyncio.run(test())


def test_all_hear_of_a_failure_and_the_next_asks_again() -> None:
    async def test() -> None:
        log = Log()
        log.fails = True
        log.answers.set()
        reads = LogReads(log)
        answers = await asyncio.gather(*[reads.read("a", START, 10) for _ in range(2)], return_exceptions=True)
        assert [type(answer) for answer in answers] == [ServiceUnavailable] * 2
        log.fails = False
        assert (await reads.read("a", START, 10)).epoch == "e"

    asyncio.run(test())


@pytest.mark.parametrize("count", [1, 100])
def test_nothing_is_kept_of_what_was_answered(count: int) -> None:
    async def test() -> None:
        log = Log()
        log.answers.set()
        reads = LogReads(log)
        await asyncio.gather(*[reads.read(str(n), START, 10) for n in range(count)])
        assert not reads._waiting

    asyncio.run(test())
