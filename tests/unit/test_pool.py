"""The pool under everything that can happen to those who wait: no connection and no place is ever lost."""

import asyncio
import random
from typing import Any, cast

import asyncpg
import pytest

from ai_agent.storage import pool as pool_module
from ai_agent.storage.pool import Pool

SIZE = 4


class Connection:
    """What the pool sees of a connection."""

    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True


class Server:
    """Counts the connections that are open at the same time, and refuses some."""

    def __init__(self, dice: random.Random | None = None) -> None:
        self.made: list[Connection] = []
        self._dice = dice

    @property
    def open(self) -> int:
        return sum(not connection.closed for connection in self.made)

    async def connect(self) -> asyncpg.Connection:
        await asyncio.sleep(0)
        if self._dice is not None and self._dice.random() < 0.2:
            raise OSError("refused")
        connection = Connection()
        self.made.append(connection)
        return cast("asyncpg.Connection[Any]", connection)


def pool_of(server: Server, size: int = SIZE) -> Pool:
    return Pool(server.connect, size)


def test_a_released_connection_is_used_again() -> None:
    async def scenario() -> None:
        server = Server()
        pool = pool_of(server)
        for _ in range(10):
            pool.release(await pool.acquire())
        assert len(server.made) == 1

    asyncio.run(scenario())


def test_who_waits_longest_is_served_first() -> None:
    async def scenario() -> None:
        pool = pool_of(Server(), size=1)
        held, order = await pool.acquire(), []

        async def use(name: int) -> None:
            connection = await pool.acquire()
            order.append(name)
            pool.release(connection)

        tasks = [asyncio.create_task(use(name)) for name in range(5)]
        await asyncio.sleep(0)
        pool.release(held)
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_who_waits_too_long_is_told_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "ACQUIRE_SECONDS", 0.02)

    async def scenario() -> None:
        pool = pool_of(Server(), size=1)
        held = await pool.acquire()
        with pytest.raises(TimeoutError):
            await pool.acquire()
        pool.release(held)
        assert await pool.acquire() is held

    asyncio.run(scenario())


def test_who_waits_for_a_place_has_less_time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server that accepts and never answers would keep a request for both times, one behind the other."""
    monkeypatch.setattr(pool_module, "ACQUIRE_SECONDS", 0.1)
    monkeypatch.setattr(pool_module, "NEW_SECONDS", 0.2)

    async def scenario() -> None:
        hangs = asyncio.Event()

        async def connect() -> asyncpg.Connection:
            if hangs.is_set():
                await asyncio.sleep(10)
            return await server.connect()

        server = Server()
        pool = Pool(connect, 1)
        first = await pool.acquire()
        hangs.set()
        loop = asyncio.get_running_loop()
        first.terminate()
        loop.call_later(0.09, pool.release, first)
        began = loop.time()
        with pytest.raises(TimeoutError):
            await pool.acquire()
        assert loop.time() - began < 0.28
        hangs.clear()
        pool.release(await pool.acquire())

    asyncio.run(scenario())


def test_a_dead_connection_makes_room_for_another() -> None:
    async def scenario() -> None:
        server = Server()
        pool = pool_of(server, size=1)
        first = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        first.terminate()
        pool.release(first)
        second = await waiting
        assert second is not first
        pool.release(second)
        second.terminate()  # It dies while nobody uses it.
        third = await pool.acquire()
        assert third is not second
        assert server.open == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_no_connection_and_no_place_is_lost_whatever_happens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "ACQUIRE_SECONDS", 0.003)
    dice = random.Random(seed)

    async def scenario() -> None:
        server = Server(dice)
        pool = pool_of(server)

        async def use() -> None:
            try:
                connection = await pool.acquire()
            except (TimeoutError, OSError):
                return
            try:
                assert not connection.is_closed()
                assert server.open <= SIZE
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
                if dice.random() < 0.2:
                    connection.terminate()
            finally:
                pool.release(connection)

        for _ in range(60):
            tasks = [asyncio.create_task(use()) for _ in range(dice.randrange(12))]
            for task in tasks:
                if dice.random() < 0.3:
                    for _ in range(dice.randrange(5)):
                        await asyncio.sleep(0)
                    task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert not [end for end in ends if isinstance(end, AssertionError)]
        assert not pool._lent
        assert not pool._waiting
        assert pool._places + len(pool._idle) == SIZE
        server._dice = None
        held = [await pool.acquire() for _ in range(SIZE)]
        assert len(set(held)) == SIZE
        for connection in held:
            pool.release(connection)
        await pool.close(1)
        assert server.open == 0

    asyncio.run(scenario())
