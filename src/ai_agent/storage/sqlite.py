"""SQLite through aiosqlite: one writer and a few readers, each on a thread of its own; WAL lets them work together."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from ai_agent.domain.errors import ConfigurationError, ServiceUnavailable
from ai_agent.storage.database import (
    ACQUIRE_SECONDS,
    PATIENCE_SECONDS,
    Connection,
    Effect,
    LockTimeout,
    PoolUse,
    Reader,
    Told,
    UniqueViolation,
    shared_connection,
)
from ai_agent.storage.functions import json_text
from ai_agent.storage.outbox import ADD, row
from ai_agent.storage.statements import Statement, to_sqlite

Row = TypeVar("Row")

READERS = 4
PATIENT_READERS = 2
# Behind the wait for our own writer, for another process: together less than the 2.5 s that an answer may take.
BUSY_TIMEOUT_MS = 1300

_UNIQUE = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}
_AWAY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}


def _translated(error: sqlite3.Error) -> Exception:
    """The domain's error for the driver's, or the error itself: a fault of ours, which the log must show as it is."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _UNIQUE:
        return UniqueViolation(str(error).rpartition("failed: ")[2])
    # The low byte is the primary code, whatever the extended one adds.
    if code & 0xFF in _AWAY:
        return ServiceUnavailable("The database is busy or cannot be written")
    return error


class _Statements:
    """Runs statements on one connection."""

    def __init__(self, driver: aiosqlite.Connection):
        self._driver = driver
        self.effects: list[Effect] = []
        self.told: list[Told] = []

    def tell(self, told: Sequence[Told]) -> None:
        self.told += told

    def after_commit(self, effect: Effect) -> None:
        self.effects.append(effect)

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]:
        compiled = statement.compiled("sqlite")
        values = [to_sqlite(value) for value in compiled.arguments(parameters)]
        try:
            rows = await self._driver.execute_fetchall(compiled.sql, values)
        except sqlite3.Error as error:
            raise _translated(error) from error
        return [compiled.build(row) for row in rows]

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None:
        rows = await self.all(statement, **parameters)
        return rows[0] if rows else None

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        compiled = statement.compiled("sqlite")
        values = [to_sqlite(value) for value in compiled.arguments(parameters)]
        try:
            async with self._driver.execute(compiled.sql, values) as cursor:
                return cursor.rowcount
        except sqlite3.Error as error:
            raise _translated(error) from error

    async def many(self, statement: Statement[Any], rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        compiled = statement.compiled("sqlite")
        values = [[to_sqlite(value) for value in compiled.arguments(row)] for row in rows]
        try:
            await (await self._driver.executemany(compiled.sql, values)).close()
        except sqlite3.Error as error:
            raise _translated(error) from error


class _Readers:
    """Lends each statement one of the readers, for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.waiting = 0
        self.free: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[_Statements]:
        self.waiting += 1
        try:
            async with asyncio.timeout(ACQUIRE_SECONDS):
                driver = await self.free.get()
        except TimeoutError as error:
            raise ServiceUnavailable("No database connection is free") from error
        finally:
            self.waiting -= 1
        try:
            async with asyncio.timeout(self._seconds):
                yield _Statements(driver)
        except TimeoutError as error:
            await driver.interrupt()
            raise ServiceUnavailable("The database did not answer in time") from error
        except asyncio.CancelledError:
            await driver.interrupt()  # Else its thread would work on for nobody.
            raise
        finally:
            self.free.put_nowait(driver)

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]:
        async with self._lent() as connection:
            return await connection.all(statement, **parameters)

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None:
        async with self._lent() as connection:
            return await connection.first(statement, **parameters)


class SqliteDatabase:
    dialect = "sqlite"

    def __init__(self, path: Path, *, statement_timeout: float):
        self._path = path
        # Those who search keep only each other waiting.
        self._readers, self._patient = _Readers(statement_timeout), _Readers(PATIENCE_SECONDS)
        self.reader: Reader = self._readers
        self.patient: Reader = self._patient
        self._writer: aiosqlite.Connection | None = None
        self._writing = asyncio.Lock()
        self._writers = 0
        self._open: list[aiosqlite.Connection] = []

    async def open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = await self._connect()
            for readers in (self._readers,) * READERS + (self._patient,) * PATIENT_READERS:
                reader = await self._connect()
                await reader.execute("PRAGMA query_only=ON")
                readers.free.put_nowait(reader)
        except (OSError, sqlite3.Error) as error:
            await self.close()
            hint = "Check AI_AGENT_DATA_DIR, AI_AGENT_DATABASE_URL and the rights on the folder"
            raise ConfigurationError(f"The database {self._path} cannot be opened: {error}", hint) from error

    async def _connect(self) -> aiosqlite.Connection:
        connection = await aiosqlite.connect(self._path, isolation_level=None)
        self._open.append(connection)
        # FULL: what was answered with a 2xx survives a power cut, too.
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            await connection.execute(f"PRAGMA {pragma}")
        await connection.create_function("json_member", 2, json_text, deterministic=True)
        return connection

    def pool_use(self) -> PoolUse:
        free = self._readers.free.qsize() + self._patient.free.qsize() + (not self._writing.locked())
        size = READERS + PATIENT_READERS + 1
        return PoolUse(size, size - free, self._readers.waiting + self._patient.waiting + self._writers)

    async def close(self) -> None:
        async with self._writing:
            for connection in self._open:
                await connection.close()
            self._open.clear()

    async def write(
        self, statement: Statement[Any], *, told: Told | None = None, then: Effect | None = None, **parameters: Any
    ) -> None:
        async with self.unit_of_work() as rows:
            await rows.run(statement, **parameters)
            if told is not None:
                rows.tell([told])
            if then is not None:
                rows.after_commit(then)

    @asynccontextmanager
    async def unit_of_work(self, *, lock_seconds: float | None = None) -> AsyncIterator[Connection]:  # noqa: ARG002  # one writer: whoever waits, waits here
        if (outer := shared_connection()) is not None:
            yield outer
            return
        assert self._writer is not None  # noqa: S101  # opened by the lifespan
        self._writers += 1
        try:
            async with asyncio.timeout(ACQUIRE_SECONDS):
                await self._writing.acquire()
        except TimeoutError as error:
            raise LockTimeout("The database is busy") from error
        finally:
            self._writers -= 1
        statements = _Statements(self._writer)
        try:
            try:
                await self._control("BEGIN IMMEDIATE")
                yield statements
                await statements.many(ADD, [row(told) for told in statements.told])
                await self._control("COMMIT")
            except BaseException:
                # The thread finishes what a cancelled request has begun, in order: after a rollback behind it, no
                # transaction is left to the next one.
                await asyncio.shield(self._writer.rollback())
                raise
        finally:
            self._writing.release()
        for effect in statements.effects:
            await effect()

    async def _control(self, sql: str) -> None:
        assert self._writer is not None  # noqa: S101  # opened by the lifespan
        try:
            await asyncio.shield(self._writer.execute_fetchall(sql))
        except sqlite3.Error as error:
            raise _translated(error) from error
