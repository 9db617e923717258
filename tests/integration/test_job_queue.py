"""The queue in memory and on Redis: each job once, cancel wherever it is, and no job lost with a worker or Redis."""

import asyncio
import itertools
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest
from litestar_queues import Worker

from ai_agent.domain.fields import new_id
from ai_agent.execution import job_queue
from ai_agent.execution.job_queue import Handler, LitestarJobQueue
from ai_agent.storage.redis import connect
from tests.servers import ValkeyServer

_names = itertools.count()
LEASE_SECONDS = 1.5
"""Short, so that what a lost worker had comes back soon."""


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


class Queues:
    """Queues of one name: in memory they are one object, on Redis each is what a process of its own would have."""

    def __init__(self, valkey: ValkeyServer | None):
        self._valkey = valkey
        self.name = f"test-{next(_names)}"
        self._made: list[LitestarJobQueue] = []

    def another(self, concurrency: int = 4) -> LitestarJobQueue:
        if self._valkey is None and self._made:
            return self._made[0]
        redis = connect(self._valkey.url, answer_seconds=1, reconnect=True) if self._valkey else None
        queue = LitestarJobQueue(redis, concurrency=concurrency, lease_seconds=LEASE_SECONDS, name=self.name)
        self._made.append(queue)
        return queue

    async def working(self, handler: Handler, concurrency: int = 4) -> LitestarJobQueue:
        queue = self.another(concurrency)
        await queue.work(handler)
        return queue

    async def close(self) -> None:
        for queue in self._made:
            await queue.close()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> ValkeyServer | None:
    return None if request.param == "memory" else request.getfixturevalue("valkey")


@pytest.fixture
def redis(valkey: ValkeyServer) -> ValkeyServer:
    return valkey


def play(store: ValkeyServer | None, scenario: Callable[[Queues], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        queues = Queues(store)
        try:
            async with asyncio.timeout(40):
                await scenario(queues)
        finally:
            await queues.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def counting(done: Counter[UUID], seconds: float = 0) -> Handler:
    async def handler(job: UUID) -> None:
        await asyncio.sleep(seconds)
        done[job] += 1

    return handler


def test_each_job_is_done_once_however_often_it_is_queued(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()
        queue, other = queues.another(), queues.another()
        jobs = [new_id() for _ in range(20)]
        for job in jobs:
            await queue.enqueue(job)
            await other.enqueue(job)
        await queue.work(counting(done, 0.05))
        await until(lambda: len(done) == len(jobs))
        await asyncio.sleep(0.3)
        assert done == Counter(jobs)

    play(store, scenario)


def test_a_job_that_is_done_may_be_queued_again(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()
        queue, job = await queues.working(counting(done)), new_id()
        for times in (1, 2, 3):
            await queue.enqueue(job)
            await until(lambda times=times: done[job] == times)  # type: ignore[misc]
            await asyncio.sleep(0.1)

    play(store, scenario)


def test_a_job_that_is_queued_again_before_it_has_ended_runs_again(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()

        async def handler(job: UUID) -> None:
            done[job] += 1
            if done[job] == 1:
                await queue.enqueue(job)
                await queue.enqueue(job)

        queue, job = await queues.working(handler), new_id()
        await queue.enqueue(job)
        await until(lambda: done[job] == 2, 0.4)
        await asyncio.sleep(0.3)
        assert done[job] == 2

    play(store, scenario)


def test_jobs_that_are_done_are_forgotten(store: ValkeyServer | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_queue, "CLEAN_SECONDS", 0.1)
    monkeypatch.setattr(job_queue, "KEPT_SECONDS", 0.0)

    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()
        queue = await queues.working(counting(done))
        for _ in range(20):
            await queue.enqueue(new_id())
        await until(lambda: len(done) == 20)
        async with asyncio.timeout(3):
            while sum((await queue.status()).values()):
                await asyncio.sleep(0.05)

    play(store, scenario)


def test_a_running_job_is_interrupted_from_elsewhere_and_an_unknown_one_is_nothing(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        endless, job = Endless(), new_id()
        await queues.working(endless)
        other = queues.another()
        await other.enqueue(job)
        await endless.started.wait()
        await other.cancel(new_id())
        await asyncio.sleep(0.1)
        assert not endless.interrupted.is_set()
        await other.cancel(job)
        async with asyncio.timeout(0.25):
            await endless.interrupted.wait()

    play(store, scenario)


def test_a_cancelled_job_that_has_not_begun_never_does(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()
        queue, (kept, cancelled) = queues.another(), (new_id(), new_id())
        await queue.enqueue(cancelled)
        await queue.cancel(cancelled)
        await queue.enqueue(kept)
        await queue.work(counting(done))
        await until(lambda: bool(done))
        await asyncio.sleep(0.1)
        assert done == Counter([kept])

    play(store, scenario)


def test_many_jobs_wait_for_their_turn(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        running, most, done = 0, 0, 0

        async def handler(_: UUID) -> None:
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            done += 1

        queue = await queues.working(handler, concurrency=8)
        for _ in range(200):
            await queue.enqueue(new_id())
        await until(lambda: done == 200, 20)
        assert most == 8

    play(store, scenario)


def test_a_job_that_fails_takes_nothing_with_it(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()

        async def handler(job: UUID) -> None:
            done[job] += 1
            if len(done) == 1:
                raise ValueError("a bug")

        queue = await queues.working(handler)
        await queue.enqueue(new_id())
        await until(lambda: len(done) == 1)
        await queue.enqueue(new_id())
        await until(lambda: len(done) == 2)
        assert set(done.values()) == {1}

    play(store, scenario)


def test_closing_interrupts_what_runs(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        endless = Endless()
        queue = await queues.working(endless)
        await queue.enqueue(new_id())
        await endless.started.wait()
        async with asyncio.timeout(3):
            await queue.close()
        assert endless.interrupted.is_set()

    play(store, scenario)


def test_workers_share_the_jobs(redis: ValkeyServer) -> None:
    async def scenario(queues: Queues) -> None:
        done: list[Counter[UUID]] = [Counter(), Counter()]
        first, _ = [await queues.working(counting(mine, 0.02), concurrency=2) for mine in done]
        jobs = [new_id() for _ in range(40)]
        for job in jobs:
            await first.enqueue(job)
        await until(lambda: sum(map(len, done)) == len(jobs))
        assert done[0] + done[1] == Counter(jobs)
        assert min(map(len, done)) > 5

    play(redis, scenario)


def test_what_a_closed_worker_leaves_goes_to_another_at_once(redis: ValkeyServer) -> None:
    async def scenario(queues: Queues) -> None:
        endless, job, done = Endless(), new_id(), Counter[UUID]()
        leaving = await queues.working(endless)
        await leaving.enqueue(job)
        await endless.started.wait()
        await queues.working(counting(done))
        await leaving.close()
        await until(lambda: done[job] == 1, 0.5)

    play(redis, scenario)


class Stranger:
    """A worker in a process of its own, whose jobs never end."""

    code = """
import asyncio, sys
from ai_agent.execution.job_queue import LitestarJobQueue
from ai_agent.storage.redis import connect

async def handler(job):
    print(job, flush=True)
    await asyncio.sleep(600)

async def main(url, name, lease):
    queue = LitestarJobQueue(connect(url, answer_seconds=1), concurrency=4, lease_seconds=float(lease), name=name)
    await queue.work(handler)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""

    def __init__(self, url: str, name: str):
        command = [sys.executable, "-c", self.code, url, name, str(LEASE_SECONDS)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)

    async def begun(self) -> UUID:
        assert self.process.stdout is not None
        return UUID((await asyncio.to_thread(self.process.stdout.readline)).decode().strip())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_of_a_killed_or_frozen_worker_comes_back(redis: ValkeyServer, how: int) -> None:
    async def scenario(queues: Queues) -> None:
        job, done = new_id(), Counter[UUID]()
        stranger = Stranger(redis.url, queues.name)
        try:
            await queues.another().enqueue(job)
            assert await stranger.begun() == job
            await queues.working(counting(done))
            await asyncio.sleep(2 * LEASE_SECONDS)
            assert not done
            stranger.process.send_signal(how)
            await until(lambda: done[job] == 1, LEASE_SECONDS + 0.5)
        finally:
            stranger.end()

    play(redis, scenario)


async def away(redis: ValkeyServer, seconds: float = 1) -> None:
    """Kills Redis, and starts it again."""
    redis.kill()
    await asyncio.sleep(seconds)
    await asyncio.to_thread(redis.start)


def test_a_redis_that_was_killed_is_worked_with_again_soon(redis: ValkeyServer) -> None:
    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()
        await queues.working(counting(done))
        other = queues.another()
        await asked_until_done(other, done)
        await away(redis)
        await asked_until_done(other, done)

    play(redis, scenario)


async def asked_until_done(queue: LitestarJobQueue, done: Counter[UUID]) -> None:
    """As the sweeper asks: a queue that is away, or slow, is asked again."""
    job = new_id()
    async with asyncio.timeout(15):
        while not done[job]:
            await queue.enqueue(job)
            await asyncio.sleep(0.05)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> asyncio.Event:
    """Lets the library's wait for work fail while the event is set that this answers."""
    fails, healthy = asyncio.Event(), Worker._wait_for_work

    async def wait_for_work(worker: Worker) -> bool | None:
        if fails.is_set():
            raise error
        return await healthy(worker)

    monkeypatch.setattr(Worker, "_wait_for_work", wait_for_work)
    return fails


@pytest.mark.parametrize("error", [RuntimeError("pubsub connection not set"), ConnectionError("gone")])
def test_a_listener_that_fails_keeps_no_job_waiting(
    redis: ValkeyServer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()
        fails, queue = failing(monkeypatch, error), await queues.working(counting(done))
        await asked_until_done(queue, done)
        fails.set()
        await asked_until_done(queue, done)

    play(redis, scenario)


def test_a_queue_closes_also_when_redis_fails_just_then(redis: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(queues: Queues) -> None:
        fails, queue = failing(monkeypatch, ConnectionError("gone")), await queues.working(counting(Counter()))
        fails.set()
        await asyncio.sleep(0.6)
        async with asyncio.timeout(3):
            await queue.close()

    play(redis, scenario)


def test_what_runs_goes_on_while_redis_is_away(redis: ValkeyServer) -> None:
    async def scenario(queues: Queues) -> None:
        done, begun, interrupted = Counter[UUID](), asyncio.Event(), False

        async def handler(job: UUID) -> None:
            nonlocal interrupted
            begun.set()
            try:
                await asyncio.sleep(4 * LEASE_SECONDS)
            except asyncio.CancelledError:
                interrupted = True
                raise
            done[job] += 1

        queue = await queues.working(handler)
        await queue.enqueue(new_id())
        await begun.wait()
        redis.ask("FLUSHALL")
        await away(redis, LEASE_SECONDS)
        await until(lambda: bool(done), 5 * LEASE_SECONDS)
        assert not interrupted

    play(redis, scenario)


def test_nobody_waits_for_a_redis_that_is_frozen_or_away(
    redis: ValkeyServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(queues: Queues) -> None:
        queue = await queues.working(counting(Counter()))
        await until_quiet(queue)
        with redis.frozen():
            began = time.monotonic()
            await queue.enqueue(new_id())
            await queue.cancel(new_id())
            assert time.monotonic() - began < 0.6
            began = time.monotonic()
            for _ in range(1000):
                await queue.enqueue(new_id())
            assert time.monotonic() - began < 0.5
        await asyncio.sleep(1.5)
        redis.kill()
        await queue.enqueue(new_id())
        await queue.cancel(new_id())
        await asyncio.sleep(3)
        redis.start()
        await asyncio.sleep(1.5)

    play(redis, scenario)
    told = capsys.readouterr().out
    assert (told.count("queue_away"), told.count("queue_back")) == (2, 2), told
    assert "Traceback" not in told + caplog.text


async def until_quiet(queue: LitestarJobQueue) -> None:
    await queue.status()
    await asyncio.sleep(0.2)


@pytest.mark.parametrize("first", ["queue", "worker"])
def test_an_emptied_redis_lets_new_processes_start(redis: ValkeyServer, first: str) -> None:
    async def scenario(queues: Queues) -> None:
        done: Counter[UUID] = Counter()
        queue = queues.another() if first == "queue" else await queues.working(counting(done))
        await queue.enqueue(new_id())
        redis.ask("FLUSHALL")
        job = new_id()
        await queue.enqueue(job)
        await queues.working(counting(done))
        await until(lambda: done[job] == 1, 2)

    play(redis, scenario)


def test_a_worker_starts_while_redis_is_away(redis: ValkeyServer) -> None:
    async def scenario(queues: Queues) -> None:
        done, job = Counter[UUID](), new_id()
        redis.kill()
        queue = await queues.working(counting(done))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(redis.start)
        async with asyncio.timeout(2):
            while not done[job]:
                await queue.enqueue(job)
                await asyncio.sleep(0.05)

    play(redis, scenario)


def test_queues_of_two_deployments_on_one_redis_do_not_meet(redis: ValkeyServer) -> None:
    async def scenario(queues: Queues) -> None:
        done, job = Counter[UUID](), new_id()
        others = Queues(redis)
        await others.working(counting(Counter()))
        await queues.another().enqueue(job)
        await asyncio.sleep(0.3)
        await queues.working(counting(done))
        await until(lambda: done[job] == 1)
        await others.close()

    play(redis, scenario)


def test_a_job_begins_soon_after_it_was_queued(store: ValkeyServer | None) -> None:
    async def scenario(queues: Queues) -> None:
        began: dict[UUID, float] = {}
        took: list[float] = []

        async def handler(job: UUID) -> None:
            took.append(time.perf_counter() - began[job])

        await queues.working(handler)
        queue = queues.another()
        await asyncio.sleep(0.2)
        for _ in range(50):
            began[job := new_id()] = time.perf_counter()
            await queue.enqueue(job)
            await asyncio.sleep(0.03)
        await until(lambda: len(took) == 50)
        assert statistics.median(took) < 0.02

    play(store, scenario)
