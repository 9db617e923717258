"""Hears what any process appends to the event log's file: looks every two milliseconds, while somebody listens here."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Container
from pathlib import Path

import structlog

from ai_agent.realtime import events_file
from ai_agent.realtime.event_log import Heard

LOOK_SECONDS = 0.002
FAILED_SECONDS = 0.5

log = structlog.get_logger()


class EventsTail:
    """`deliver` is called in the event loop with what is new in the `wanted` channels."""

    def __init__(self, path: Path, wanted: Container[str], deliver: Callable[[dict[str, Heard]], None]):
        self._path = path
        self._wanted = wanted
        self._deliver = deliver
        self._thread = threading.Thread(target=self._run, name="event-log-tail", daemon=True)
        self._lock = threading.Lock()
        self._listeners = 0
        self._awake = False
        self._waking: list[asyncio.Future[None]] = []
        self._called = threading.Event()
        self._stopping = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._called.set()
        self._thread.join()

    def look(self) -> None:
        """There is something new."""
        if self._awake:
            self._called.set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """In the block, everything is heard that is appended."""
        with self._lock:
            self._listeners += 1
            awake = None if self._awake else asyncio.get_running_loop().create_future()
            if awake is not None:
                self._waking.append(awake)
                self._called.set()
        try:
            if awake is not None:
                await awake
            yield
        finally:
            with self._lock:
                self._listeners -= 1

    def _run(self) -> None:
        connection = events_file.connect(self._path)
        while not self._stopping:
            self._called.wait()
            self._called.clear()
            try:
                self._follow(connection)
            except sqlite3.Error:
                log.exception("event_log_tail_failed")
                self._sleep()
                self._called.wait(FAILED_SECONDS)
                self._called.set()
        connection.close()

    def _follow(self, connection: sqlite3.Connection) -> None:
        """Looks until nobody listens any more."""
        version = events_file.version(connection)  # Before the newest id, so that no change is passed over.
        last = events_file.newest(connection)
        self._wake()
        while not self._stopping and not self._sleep_without_listeners():
            if (seen := events_file.version(connection)) != version:
                version = seen
                last, found = events_file.newer(connection, last, self._wanted)
                if found:
                    self._loop.call_soon_threadsafe(self._deliver, found)
            self._called.wait(LOOK_SECONDS)
            self._called.clear()

    def _wake(self) -> None:
        with self._lock:
            self._awake = True
            waking, self._waking = self._waking, []
        self._loop.call_soon_threadsafe(_done, waking)

    def _sleep_without_listeners(self) -> bool:
        with self._lock:
            self._awake = self._listeners > 0
        return not self._awake

    def _sleep(self) -> None:
        with self._lock:
            self._awake = False


def _done(waking: list["asyncio.Future[None]"]) -> None:
    for future in waking:
        if not future.done():
            future.set_result(None)
