"""The event log in a file of its own, `events.db`, that the processes of one machine share.

One thread writes: appends that come close together share a commit. Another one looks, while somebody listens, whether
the file has changed, and hands on what is new, whoever wrote it. Reads have threads of their own.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ai_agent.domain.channels import Retention, retention
from ai_agent.domain.errors import ConfigurationError, ServiceUnavailable
from ai_agent.domain.events import NewEvent
from ai_agent.realtime import events_file
from ai_agent.realtime.event_log import Fenced, Heard, LogPage, Position, Subscribers, Subscription
from ai_agent.realtime.events_tail import EventsTail

GROUP_SECONDS = 0.005
"""Appends that come so soon behind a commit wait for each other; the first one after a pause does not wait."""
GROUP_EVENTS = 256
READERS = 2
OPEN_SECONDS = 2.0

Result = TypeVar("Result")


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    events: int
    answer: "asyncio.Future[Any]"


class SqliteLog:
    def __init__(self, path: Path, retained: Callable[[str], Retention] = retention):
        self._path = path
        self._retained = retained
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._subscribers = Subscribers()
        self._tail = EventsTail(path, self._subscribers, self._deliver)
        self._writer = threading.Thread(target=self._write_for_ever, name="event-log-writer", daemon=True)
        self._pool = ThreadPoolExecutor(READERS, "event-log-reader")
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def kept_until(self) -> float:
        return time.monotonic()

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self._create)
        except (OSError, sqlite3.Error) as error:
            hint = "Check AI_AGENT_DATA_DIR and the rights on the folder"
            raise ConfigurationError(f"The event log {self._path} cannot be opened: {error}", hint) from error
        self._loop = asyncio.get_running_loop()
        self._writer.start()
        self._tail.start(self._loop)

    def _create(self) -> None:
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                events_file.create(self._path)
                break
            except sqlite3.OperationalError as error:
                # Two processes that make the file at once: the journal's mode is changed without a wait.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self._connection = events_file.connect(self._path)
        for _ in range(READERS):
            self._readers.put(events_file.connect(self._path))

    async def close(self) -> None:
        if self._loop is None:
            return
        self._loop = None
        self._jobs.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        self._writer.join()
        self._tail.stop()
        self._pool.shutdown()
        self._connection.close()
        for _ in range(READERS):
            self._readers.get().close()

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        retained = self._retained(channel)
        work = partial(events_file.append, channel=channel, events=events, fence=fence, retained=retained)
        return await self._write(work, len(events))

    async def expire(self, channel: str, seconds: float) -> None:
        await self._write(partial(events_file.expire, channel=channel, seconds=seconds))

    async def forget(self, channel: str, farewell: NewEvent | None = None) -> None:
        retained = self._retained(channel)
        await self._write(partial(events_file.forget, channel=channel, farewell=farewell, retained=retained))

    async def forget_expired(self) -> int:
        forgotten = await self._read(events_file.expired)
        for channel_id in forgotten:
            # In steps, so that nobody who appends waits long.
            while not await self._write(partial(events_file.empty, channel_id=channel_id)):
                pass
        await self._write(events_file.forget_channels)
        return len(forgotten)

    async def read(self, channel: str, since: Position, limit: int) -> LogPage:
        return await self._read(partial(events_file.read, channel=channel, since=since, limit=limit))

    @contextlib.asynccontextmanager
    async def subscribe(self, channel: str, news: Callable[[], None] | None = None) -> AsyncIterator[Subscription]:
        subscription = self._subscribers.add(channel, news)
        try:
            async with self._tail.listening():
                yield subscription
        finally:
            self._subscribers.remove(channel, subscription)

    def _deliver(self, found: dict[str, Heard]) -> None:
        for channel, heard in found.items():
            self._subscribers.deliver(channel, heard)

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read_now, work)

    def _read_now(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        connection = self._readers.get()
        try:
            return work(connection)
        except sqlite3.Error as error:
            raise _unavailable(error) from error
        finally:
            self._readers.put(connection)

    async def _write(self, work: Callable[[sqlite3.Connection], Result], events: int = 1) -> Result:
        if self._loop is None:
            raise ServiceUnavailable("The event log is closed")
        answer: asyncio.Future[Result] = self._loop.create_future()
        self._jobs.put(_Job(work, events, answer))
        return await answer

    def _write_for_ever(self) -> None:
        last_commit = 0.0
        while jobs := self._next_group(last_commit + GROUP_SECONDS):
            results = self._commit(jobs)
            last_commit = time.monotonic()
            self._tail.look()
            jobs[0].answer.get_loop().call_soon_threadsafe(_answer, jobs, results)

    def _next_group(self, until: float) -> list[_Job]:
        """What is to be committed together; nothing when the log closes."""
        group: list[_Job] = []
        events = 0
        while events < GROUP_EVENTS:
            try:
                job = self._jobs.get(timeout=max(until - time.monotonic(), 0)) if group else self._jobs.get()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            group.append(job)
            events += job.events
        return group

    def _commit(self, jobs: list[_Job]) -> list[Any]:
        """The jobs' results, or what each of them failed with."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [_tried(job.work, self._connection) for job in jobs]
            self._connection.execute("COMMIT")
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            return [_unavailable(error) if isinstance(error, sqlite3.Error) else error] * len(jobs)
        return results


def _tried(work: Callable[[sqlite3.Connection], Any], connection: sqlite3.Connection) -> Any:
    try:
        return work(connection)
    except Fenced as error:
        return error  # It has changed nothing: the others of its group go on.


def _answer(jobs: list[_Job], results: list[Any]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if job.answer.done():
            continue
        if isinstance(result, Exception):
            job.answer.set_exception(result)
        else:
            job.answer.set_result(result)


def _unavailable(error: sqlite3.Error) -> ServiceUnavailable:
    unavailable = ServiceUnavailable("The event log is busy or cannot be written")
    unavailable.__cause__ = error
    return unavailable
