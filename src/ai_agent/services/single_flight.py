"""One piece of work for all who want the same at once."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Generic, NamedTuple, TypeVar

from ai_agent.background import cancel_and_wait

Result = TypeVar("Result")


class _Flight(NamedTuple, Generic[Result]):
    began: float
    task: asyncio.Task[Result]


class SingleFlight(Generic[Result]):
    """Whoever comes later joins the work for his key, unless that began more than so many seconds before."""

    def __init__(self, work: Callable[[str], Coroutine[Any, Any, Result]], seconds: float):
        self._work = work
        self._seconds = seconds
        self._flights: dict[str, _Flight[Result]] = {}
        self._tasks: set[asyncio.Task[Result]] = set()

    async def join(self, key: str) -> Result:
        """Raises what the work raises. One who leaves disturbs nobody: the work goes on for the others."""
        flight = self._flights.get(key)
        if flight is None or time.monotonic() >= flight.began + self._seconds:
            flight = self._begin(key)
        await asyncio.wait([flight.task])
        return flight.task.result()

    def close_doors(self) -> None:
        """Whoever comes from now on begins anew."""
        self._flights.clear()

    async def close(self) -> None:
        await cancel_and_wait(*self._tasks)

    def _begin(self, key: str) -> _Flight[Result]:
        # A context of its own: the work is no part of the first one's request, who may be gone before it ends.
        task = asyncio.create_task(self._work(key), context=Context())
        flight = self._flights[key] = _Flight(time.monotonic(), task)
        self._tasks.add(task)

        def landed(_: asyncio.Task[Result]) -> None:
            self._tasks.discard(task)
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not task.cancelled():
                task.exception()  # Looked at, so that asyncio does not complain when nobody waits any more.

        task.add_done_callback(landed)
        return flight
