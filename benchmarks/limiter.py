"""What it costs the server to ask the limiter, alone: CPU of this process for each request, by requests at a time.

python -m benchmarks.limiter [--requests N]
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count

import uvloop
from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from ai_agent.domain.rate_limits import TOTAL, Charge, Hit, Plan, RouteClass, Strategy, parse_limit
from ai_agent.storage import redis_limiter
from ai_agent.storage.limiter import MemoryLimiter
from ai_agent.storage.redis import connect
from ai_agent.storage.redis_limiter import RedisLimiter
from tests.servers import ValkeyServer

OWNERS = 100
AT_A_TIME = (1, 8, 32)
LIMITS = {TOTAL: "100000000/minute", RouteClass.READ: "10000000/minute"}

Ask = Callable[[str], Awaitable[object]]


def asks(url: str) -> dict[str, Ask]:
    """Ways to charge two windows of a caller."""
    plan = Plan(Charge(scope, window) for scope, text in LIMITS.items() for window in parse_limit(text))
    ours, memory = RedisLimiter(connect(url), Strategy.MOVING_WINDOW), MemoryLimiter(Strategy.MOVING_WINDOW)
    script = connect(url).register_script(redis_limiter._SCRIPT)  # noqa: SLF001  # the very same
    library = MovingWindowRateLimiter(MemoryStorage())
    items = [item for text in LIMITS.values() for item in parse_many(text)]

    def hit(caller: str) -> Hit:
        return Hit(plan, [key + caller for key in plan.keys])

    async def one_call_each(caller: str) -> None:
        await script(keys=hit(caller).keys, args=[Strategy.MOVING_WINDOW, plan.arguments])

    async def the_library(caller: str) -> None:
        for item in items:
            library.hit(item, caller)

    return {
        "Redis, all that wait in one call": lambda caller: ours.charge(hit(caller)),
        "Redis, a call each through the client": one_call_each,
        "in-process": lambda caller: memory.charge(hit(caller)),
        "in-process, the library's": the_library,
    }


async def cost(ask: Ask, requests: int, at_a_time: int) -> float:
    """CPU in µs for each request."""
    numbers = count()

    async def connection() -> None:
        while (number := next(numbers)) < requests:
            await ask(f"u:{number % OWNERS}")

    began = time.process_time()
    await asyncio.gather(*(connection() for _ in range(at_a_time)))
    return (time.process_time() - began) / requests * 1e6


async def main(url: str, requests: int) -> None:
    print(f"{'CPU µs a request, at a time':40}" + "".join(f"{number:>8}" for number in AT_A_TIME))
    for name, ask in asks(url).items():
        costs = [await cost(ask, requests, at_a_time) for at_a_time in AT_A_TIME]
        print(f"{name:40}" + "".join(f"{one:8.1f}" for one in costs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    valkey = ValkeyServer()
    try:
        uvloop.run(main(valkey.url, parser.parse_args().requests))
    finally:
        valkey.stop()
