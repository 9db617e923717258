"""A pool of connections to PostgreSQL.

Taking a free connection and giving it back touch neither the event loop nor a timer; asyncpg's own pool makes a task,
a shield and two timers for each, a tenth of the CPU of a read.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import asyncpg

from ai_agent.storage.database import ACQUIRE_SECONDS, PoolUse

NEW_SECONDS = 2.0
"""How long a statement waits for a place in the pool and the new connection in it, together."""


class Pool:
    """At most `size` connections; the one that came back last goes out first, so that few are kept busy."""

    def __init__(self, connect: "Callable[[], Awaitable[asyncpg.Connection]]", size: int):
        self._connect = connect
        self._size = size
        self._places = size
        self._idle: list[asyncpg.Connection] = []
        self._lent: set[asyncpg.Connection] = set()
        self._waiting: deque[asyncio.Future[asyncpg.Connection | None]] = deque()

    async def acquire(self) -> asyncpg.Connection:
        """A live connection. Raises TimeoutError when none is free in time, and what connecting raises."""
        connection = self._free() or await self._free_soon()
        self._lent.add(connection)
        return connection

    def release(self, connection: asyncpg.Connection) -> None:
        """Takes back a connection; a closed one makes room for another."""
        self._lent.discard(connection)
        self._pass_on(None if connection.is_closed() else connection)

    def use(self) -> PoolUse:
        return PoolUse(self._size, len(self._lent), sum(not waiter.done() for waiter in self._waiting))

    async def close(self, seconds: float) -> None:
        """Waits so long for connections that are in use, and ends the rest."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._lent and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # once, at the end
            await asyncio.sleep(0.02)
        for connection in [*self._idle, *self._lent]:
            connection.terminate()
        self._idle.clear()

    def _free(self) -> asyncpg.Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._places += 1  # It died while nobody used it.
        return None

    async def _free_soon(self) -> asyncpg.Connection:
        async with asyncio.timeout(NEW_SECONDS):
            connection = None
            if not self._take_place():
                async with asyncio.timeout(ACQUIRE_SECONDS):
                    connection = await self._next()
            return connection or await self._new()

    def _take_place(self) -> bool:
        taken = self._places > 0
        self._places -= taken
        return taken

    async def _new(self) -> asyncpg.Connection:
        """Connects in a place that the caller has taken."""
        try:
            return await self._connect()
        except BaseException:
            self._pass_on(None)
            raise

    async def _next(self) -> asyncpg.Connection | None:
        """The next connection that somebody releases; None when its place is free for a new one."""
        waiter: asyncio.Future[asyncpg.Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self._pass_on(waiter.result())  # Given in the same moment in which the caller left.
            raise

    def _pass_on(self, connection: asyncpg.Connection | None) -> None:
        """Gives a connection, or the place of one that is gone, to who waits longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None:
            self._places += 1
        else:
            self._idle.append(connection)
