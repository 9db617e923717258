"""Work that is done once for all who want it at the same time."""

import asyncio
import gc
from contextvars import ContextVar

import pytest

from ai_agent.services.single_flight import SingleFlight

REQUEST = ContextVar("request", default="nobody's")


class Slow:
    """Counts how often it is done, and fails when it is told to."""

    def __init__(self) -> None:
        self.done = 0
        self.fails = False

    async def __call__(self, key: str) -> str:
        number = self.done = self.done + 1
        await asyncio.sleep(0.05)
        if self.fails:
            raise ValueError(key)
        return f"{key}{number} {REQUEST.get()}"


def test_what_fails_fails_for_all_and_is_done_anew_for_the_next() -> None:
    async def scenario() -> None:
        work = Slow()
        flight = SingleFlight(work, 1)
        work.fails = True
        failed = await asyncio.gather(*(flight.join("a") for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in failed] == [ValueError] * 3
        work.fails = False
        assert await flight.join("a") == "a2 nobody's"

    asyncio.run(scenario())


def test_nobody_joins_what_began_too_long_ago() -> None:
    async def scenario() -> None:
        flight = SingleFlight(Slow(), 0.02)
        first = asyncio.create_task(flight.join("a"))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(flight.join("a"))
        await asyncio.sleep(0.02)
        assert (await flight.join("a"), await first, await second) == ("a2 nobody's", "a1 nobody's", "a1 nobody's")

    asyncio.run(scenario())


def test_it_is_no_part_of_the_request_that_came_first() -> None:
    async def scenario() -> None:
        REQUEST.set("mine")
        assert await SingleFlight(Slow(), 1).join("a") == "a1 nobody's"

    asyncio.run(scenario())


@pytest.mark.parametrize("fails", [True, False])
def test_all_may_leave_and_it_ends_in_silence(fails: bool) -> None:
    seen: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        work = Slow()
        work.fails = fails
        flight = SingleFlight(work, 1)
        task = asyncio.create_task(flight.join("a"))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0.06)
        assert not flight._flights
        assert not flight._tasks
        gc.collect()

    asyncio.run(scenario())
    assert seen == []


def test_closing_ends_what_nobody_waits_for() -> None:
    async def scenario() -> None:
        flight = SingleFlight(Slow(), 1)
        task = asyncio.create_task(flight.join("a"))
        await asyncio.sleep(0.01)
        await flight.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
