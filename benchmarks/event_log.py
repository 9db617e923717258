"""The event log in Redis: what an append costs client and server, and how soon it is heard.

python -m benchmarks.event_log [--appends N] [--seconds S]
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import uvloop
from redis.asyncio import Redis

from ai_agent.domain.events import EventFrame, EventType, NewEvent
from ai_agent.realtime.redis_log import RedisLog
from ai_agent.realtime.redis_script import SCRIPT, Keys, head, rest
from ai_agent.storage.redis import connect
from tests.servers import ValkeyServer

CHANNELS = [f"session:{number}" for number in range(1000)]
AT_A_TIME = (1, 8, 32)
EVENTS_A_SECOND = 500

Append = Callable[[str, NewEvent], Awaitable[object]]


def said() -> NewEvent:
    return NewEvent.of(EventType.MESSAGE_CREATED, {"role": "user", "content": "word " * 40})


def through_the_client(redis: Redis) -> Append:
    """The same script, called by redis-py: each append by itself."""
    keys, script = Keys("client"), redis.register_script(SCRIPT)

    async def append(channel: str, event: NewEvent) -> None:
        event_parts = (event.eid.bytes, rest(event))
        _, *call = keys.call(channel, "append", "", 2000, 86_400_000, head(channel), 0, 1, *event_parts)
        await script(keys=call[:3], args=call[3:])

    return append


def through_its_pipeline(redis: Redis) -> Append:
    """The same script, called by redis-py: those that wait in the same moment in one pipeline, as ours are."""
    keys, script, waiting = Keys("pipeline"), redis.register_script(SCRIPT), list[tuple[Any, asyncio.Future[None]]]()
    sending: asyncio.Task[None] | None = None

    async def send() -> None:
        while waiting:
            batch = waiting[:]
            waiting.clear()
            pipeline = redis.pipeline(transaction=False)
            for call, _ in batch:
                pipeline.evalsha(script.sha, 3, *call)
            await pipeline.execute()
            for _, answer in batch:
                answer.set_result(None)

    async def append(channel: str, event: NewEvent) -> None:
        nonlocal sending
        event_parts = (event.eid.bytes, rest(event))
        _, *call = keys.call(channel, "append", "", 2000, 86_400_000, head(channel), 0, 1, *event_parts)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((call, answer))
        if sending is None or sending.done():
            sending = asyncio.create_task(send())
        await answer

    return append


async def cost(append: Append, appends: int, at_a_time: int) -> float:
    """CPU in µs for each append."""
    numbers = count()

    async def teller() -> None:
        while (number := next(numbers)) < appends:
            await append(CHANNELS[number % len(CHANNELS)], said())

    began = time.process_time()
    await asyncio.gather(*(teller() for _ in range(at_a_time)))
    return (time.process_time() - began) / appends * 1e6


async def server_cpu(redis: Redis) -> float:
    used = await redis.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


async def costs(log: RedisLog, redis: Redis, appends: int) -> None:
    print(f"{'CPU µs an append, at a time':44}" + "".join(f"{number:>8}" for number in AT_A_TIME) + "     server")
    ways = {
        "the log": lambda channel, event: log.append(channel, [event]),
        "redis-py, a call each": through_the_client(redis),
        "redis-py, all that wait in one pipeline": through_its_pipeline(redis),
    }
    for name, append in ways.items():
        before = await server_cpu(redis)
        found = [await cost(append, appends, at_a_time) for at_a_time in AT_A_TIME]
        served = (await server_cpu(redis) - before) / (appends * len(AT_A_TIME)) * 1e6
        print(f"{name:44}" + "".join(f"{one:8.1f}" for one in found) + f"{served:10.1f}")


async def latency(log: RedisLog, other: RedisLog, seconds: float) -> None:
    """From the call of `append` at one node until the event is taken at another one."""
    sent: dict[object, float] = {}
    times: list[float] = []

    def heard(events: list[EventFrame]) -> None:
        times.extend(time.perf_counter() - sent[event.eid] for event in events)

    async with AsyncExitStack() as stack:
        for channel in CHANNELS:
            # One callback each, which takes at once, as the writer of a socket does.
            taken: list[Any] = []
            news = lambda taken=taken: heard(taken[0].take().events) if taken else None  # noqa: E731
            taken.append(await stack.enter_async_context(other.subscribe(channel, news)))
        tellers: set[asyncio.Task[object]] = set()
        began = time.perf_counter()
        for number in range(int(seconds * EVENTS_A_SECOND)):
            await asyncio.sleep(max(began + number / EVENTS_A_SECOND - time.perf_counter(), 0))
            event = said()
            sent[event.eid] = time.perf_counter()
            task = asyncio.create_task(log.append(CHANNELS[number * 7 % len(CHANNELS)], [event]))
            tellers.add(task)
            task.add_done_callback(tellers.discard)
        await asyncio.gather(*tellers)
        await asyncio.sleep(0.5)
    percentiles = statistics.quantiles(times, n=100)
    print(
        f"{len(times)} of {len(sent)} heard at {EVENTS_A_SECOND} events/s over {len(CHANNELS)} channels: "
        f"p50 {percentiles[49] * 1000:.2f} ms, p99 {percentiles[98] * 1000:.2f} ms"
    )


async def main(url: str, appends: int, seconds: float) -> None:
    log, other, redis = RedisLog(connect(url), "log"), RedisLog(connect(url), "log"), connect(url)
    await log.open()
    await other.open()
    await costs(log, redis, appends)
    await latency(log, other, seconds)
    await log.close()
    await other.close()
    await redis.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--appends", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    valkey = ValkeyServer()
    try:
        uvloop.run(main(valkey.url, arguments.appends, arguments.seconds))
    finally:
        valkey.stop()
