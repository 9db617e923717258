"""The queue: each job once, cancel wherever it is, and no memory of what is done."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from ai_agent.domain.fields import new_id
from ai_agent.execution.job_queue import LitestarJobQueue

Handler = Callable[[UUID], Awaitable[None]]


class Endless:
    """A job that only a cancel ends."""

    def __init__(self) -> None:
        self.started, self.interrupted = asyncio.Event(), asyncio.Event()

    async def __call__(self, _: UUID) -> None:
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.interrupted.set()
            raise


async def working(handler: Handler, concurrency: int = 4) -> LitestarJobQueue:
    queue = LitestarJobQueue(concurrency=concurrency)
    await queue.work(handler)
    return queue


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def test_each_job_is_done_once_and_then_forgotten() -> None:
    async def scenario() -> None:
        done: list[UUID] = []

        async def handler(job: UUID) -> None:
            done.append(job)

        queue = await working(handler)
        jobs = [new_id() for _ in range(50)]
        for job in jobs:
            await queue.enqueue(job)
            await queue.enqueue(job)
        await until(lambda: len(done) == len(jobs))
        assert sorted(done) == jobs
        await asyncio.sleep(0.1)
        await queue.enqueue(new_id())
        await until(lambda: len(done) == len(jobs) + 1)
        assert sum((await queue.status()).values()) < 5
        await queue.close()

    asyncio.run(scenario())


def test_a_running_job_is_interrupted_and_an_unknown_one_is_nothing() -> None:
    async def scenario() -> None:
        endless = Endless()
        queue = await working(endless)
        job = new_id()
        await queue.enqueue(job)
        await endless.started.wait()
        await queue.cancel(new_id())
        assert not endless.interrupted.is_set()
        await queue.cancel(job)
        async with asyncio.timeout(1):
            await endless.interrupted.wait()
        await queue.close()

    asyncio.run(scenario())


def test_jobs_beyond_the_concurrency_wait_for_their_turn() -> None:
    async def scenario() -> None:
        running, most = 0, 0

        async def handler(_: UUID) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1

        queue = await working(handler, concurrency=2)
        for _ in range(8):
            await queue.enqueue(new_id())
        async with asyncio.timeout(10):
            while (status := await queue.status())["pending"] or status["running"]:
                await asyncio.sleep(0.02)
        assert most == 2
        await queue.close()

    asyncio.run(scenario())


def test_closing_interrupts_what_runs() -> None:
    async def scenario() -> None:
        endless = Endless()
        queue = await working(endless)
        await queue.enqueue(new_id())
        await endless.started.wait()
        async with asyncio.timeout(8):
            await queue.close()
        assert endless.interrupted.is_set()

    asyncio.run(scenario())
