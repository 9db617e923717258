"""A process that is drained before it is stopped."""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from ai_agent.signals import drained_on_signal

Told = list[str]


@pytest.fixture
def told() -> Iterator[Told]:
    """What has happened; a server is around us that hears of SIGTERM."""
    heard: Told = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("stopped"))
    yield heard
    signal.signal(signal.SIGTERM, before)


def terminated(drain: Callable[[], Awaitable[None]], told: Told) -> None:
    async def run() -> None:
        with drained_on_signal(drain):
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                while "stopped" not in told:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_the_server_around_us_hears_of_a_signal_when_we_are_drained(told: Told) -> None:
    async def drain() -> None:
        await asyncio.sleep(0.05)
        told.append("drained")

    terminated(drain, told)
    assert told == ["drained", "stopped"]


def test_a_drain_that_fails_does_not_keep_a_server_from_stopping(told: Told) -> None:
    async def drain() -> None:
        raise ZeroDivisionError

    terminated(drain, told)
    assert told == ["stopped"]


def test_signals_are_given_back(told: Told) -> None:
    async def drain() -> None:
        told.append("drained")

    async def nothing() -> None:
        with drained_on_signal(drain):
            pass

    asyncio.run(nothing())
    os.kill(os.getpid(), signal.SIGTERM)
    assert told == ["stopped"]


def test_what_nobody_handles_stays_as_it_is(told: Told) -> None:
    async def drain() -> None: ...

    async def look() -> None:
        with drained_on_signal(drain):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asyncio.run(look())


def test_a_server_in_another_thread_gets_no_signals(told: Told) -> None:
    failures: list[BaseException] = []

    async def drain() -> None: ...

    async def serve() -> None:
        with drained_on_signal(drain):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.05)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5)
    assert (failures, told) == ([], ["stopped"])
