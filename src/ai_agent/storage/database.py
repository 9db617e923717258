"""The two databases, behind one small interface: read, or a unit of work that is committed before anyone answers."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiosqlite
import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ai_agent.domain.errors import ConfigurationError, Conflict, ServiceUnavailable
from ai_agent.storage.statements import Compiled, Statement, to_sqlite

Row = TypeVar("Row")

READERS = 4
BUSY_TIMEOUT_MS = 2000
ACQUIRE_SECONDS = 1.0
CONNECT_SECONDS = 2.0


class Connection(Protocol):
    """Runs statements. Parameters are the names in the statement; those it has and the call lacks are null."""

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]: ...

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None: ...

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        """Runs a statement without rows and tells how many it touched."""


class Database(Protocol):
    dialect: str

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def read(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        """A connection for reading: each statement sees what is committed, none waits for a writer."""

    def unit_of_work(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""


class UniqueViolation(Conflict):
    """A unique constraint refused the row. `constraint` is its name, or its columns on SQLite."""

    def __init__(self, constraint: str):
        super().__init__("A row with these values exists already")
        self.constraint = constraint


def create_database(url: str, *, pool_size: int, statement_timeout: float) -> Database:
    if (path := sqlite_path(url)) is not None:
        return SqliteDatabase(path)
    return PostgresDatabase(url, pool_size=pool_size, statement_timeout=statement_timeout)


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL, None for PostgreSQL. Raises ConfigurationError for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    backend = parsed.get_backend_name() if parsed else ""
    if parsed and backend == "sqlite" and parsed.database:
        return Path(parsed.database)
    if parsed and parsed.drivername in {"postgresql", "postgres"}:
        return None
    hint = "Use postgresql://user:password@host/database or sqlite:////path/to/file.db"
    raise ConfigurationError("AI_AGENT_DATABASE_URL is not a database address that is understood", hint)


def arguments(compiled: Compiled[Any], parameters: dict[str, Any]) -> list[Any]:
    defaults = compiled.defaults
    return [parameters[name] if name in parameters else defaults.get(name) for name in compiled.parameters]


class _PostgresConnection:
    def __init__(self, connection: Any):
        self._connection = connection

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]:
        compiled = statement.compiled("postgresql")
        with _postgres_errors():
            rows = await self._connection.fetch(compiled.sql, *arguments(compiled, parameters))
        return [compiled.build(row) for row in rows]

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None:
        compiled = statement.compiled("postgresql")
        with _postgres_errors():
            row = await self._connection.fetchrow(compiled.sql, *arguments(compiled, parameters))
        return None if row is None else compiled.build(row)

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        compiled = statement.compiled("postgresql")
        with _postgres_errors():
            tag = await self._connection.execute(compiled.sql, *arguments(compiled, parameters))
        return int(tag.rsplit(" ", 1)[-1])


class _PooledConnection(asyncpg.Connection):
    def get_reset_query(self) -> str:
        # No statement of ours leaves state on a connection, and resetting would cost every read a round trip.
        return ""


@contextlib.contextmanager
def _postgres_errors() -> Iterator[None]:
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise UniqueViolation(error.constraint_name or "") from error
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as e:
        raise ServiceUnavailable("The database is not available") from e
    except asyncpg.InsufficientResourcesError as error:
        raise ServiceUnavailable("The database is overloaded") from error


class PostgresDatabase:
    dialect = "postgresql"

    def __init__(self, url: str, *, pool_size: int, statement_timeout: float):
        self._url = url
        self._pool_size = pool_size
        self._statement_timeout = statement_timeout
        self._pool: Any = None

    async def open(self) -> None:
        """Raises ConfigurationError when the server cannot be reached."""
        try:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=self._pool_size,
                timeout=CONNECT_SECONDS,
                command_timeout=self._statement_timeout,
                connection_class=_PooledConnection,
                server_settings={"application_name": "ai-agent", "jit": "off"},
            )
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            reason = str(error) or type(error).__name__
            hint = "Check AI_AGENT_DATABASE_URL and that the server accepts connections"
            raise ConfigurationError(f"The database cannot be reached: {reason}", hint) from error

    async def close(self) -> None:
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), timeout=5)
            except TimeoutError:
                self._pool.terminate()

    @contextlib.asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Any]:
        with _postgres_errors():
            try:
                connection = await self._pool.acquire(timeout=ACQUIRE_SECONDS)
            except TimeoutError as error:
                raise ServiceUnavailable("No database connection is free") from error
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        async with self._acquired() as connection:
            yield _PostgresConnection(connection)

    @contextlib.asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Connection]:
        async with self._acquired() as connection:
            with _postgres_errors():
                async with connection.transaction():
                    yield _PostgresConnection(connection)


class _SqliteConnection:
    def __init__(self, connection: aiosqlite.Connection):
        self._connection = connection

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]:
        compiled = statement.compiled("sqlite")
        values = [to_sqlite(value) for value in arguments(compiled, parameters)]
        with _sqlite_errors():
            rows = await self._connection.execute_fetchall(compiled.sql, values)
        return [compiled.build(row) for row in rows]

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None:
        rows = await self.all(statement, **parameters)
        return rows[0] if rows else None

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        compiled = statement.compiled("sqlite")
        values = [to_sqlite(value) for value in arguments(compiled, parameters)]
        with _sqlite_errors():
            async with self._connection.execute(compiled.sql, values) as cursor:
                return cursor.rowcount


@contextlib.contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode in {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}:
            raise UniqueViolation(str(error).rpartition("failed: ")[2]) from error
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}:
            raise ServiceUnavailable("The database is busy or full") from error
        raise


class SqliteDatabase:
    """One writer and a few readers, each on a thread of its own; WAL lets them work at the same time."""

    dialect = "sqlite"

    def __init__(self, path: Path):
        self._path = path
        self._writer: aiosqlite.Connection | None = None
        self._writing = asyncio.Lock()
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()

    async def _connect(self) -> aiosqlite.Connection:
        connection = await aiosqlite.connect(self._path, isolation_level=None)
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            await connection.execute(f"PRAGMA {pragma}")
        return connection

    async def open(self) -> None:
        """Raises ConfigurationError when the file cannot be opened."""
        try:
            self._writer = await self._connect()
            for _ in range(READERS):
                self._readers.put_nowait(await self._connect())
        except sqlite3.Error as error:
            hint = "Check AI_AGENT_DATA_DIR, AI_AGENT_DATABASE_URL and the rights on the folder"
            raise ConfigurationError(f"The database {self._path} cannot be opened: {error}", hint) from error

    async def close(self) -> None:
        if self._writer is not None:
            for _ in range(READERS):
                await (await self._readers.get()).close()
            async with self._writing:
                await self._writer.close()

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        try:
            connection = await asyncio.wait_for(self._readers.get(), ACQUIRE_SECONDS)
        except TimeoutError as error:
            raise ServiceUnavailable("No database connection is free") from error
        try:
            yield _SqliteConnection(connection)
        finally:
            self._readers.put_nowait(connection)

    @contextlib.asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Connection]:
        assert self._writer is not None  # noqa: S101  # opened by the lifespan
        async with self._writing:
            with _sqlite_errors():
                await self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield _SqliteConnection(self._writer)
            except BaseException:
                # Shielded: a cancelled request must not leave its transaction to the next one.
                await asyncio.shield(self._writer.rollback())
                raise
            with _sqlite_errors():
                await asyncio.shield(self._writer.commit())
