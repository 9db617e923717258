"""PostgreSQL through asyncpg."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import msgspec

from ai_agent.domain.errors import ConfigurationError, ServiceUnavailable
from ai_agent.storage.database import (
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
from ai_agent.storage.outbox import as_text, row, telling
from ai_agent.storage.pool import Pool
from ai_agent.storage.statements import Statement

Row = TypeVar("Row")

CONNECT_SECONDS = 2.0
CLOSE_SECONDS = 5.0
GRACE_SECONDS = 0.2
IDLE_SECONDS = 5.0
"""A transaction that asks nothing for so long is of a process that hangs, and others wait for its locks."""

_LOST: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""The connection died under a statement; for what it read, another one may still answer."""

_BUSY: tuple[type[Exception], ...] = (
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
)
# On Python 3.11 TimeoutError is an OSError, too: it is looked at before those.
_FAILURES: tuple[type[Exception], ...] = (TimeoutError, asyncpg.PostgresError, *_LOST)
_UNREACHABLE: tuple[type[Exception], ...] = (ValueError, *_FAILURES)


def _translated(error: Exception) -> Exception:
    """The domain's error for a driver's, or the error itself: a fault of ours, which the log must show as it is."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return UniqueViolation(error.constraint_name or "")
    if isinstance(error, asyncpg.LockNotAvailableError):
        return LockTimeout("The database is too busy")
    if isinstance(error, TimeoutError):
        return ServiceUnavailable("The database did not answer in time")
    if isinstance(error, _BUSY):
        return ServiceUnavailable("The database is too busy")
    if isinstance(error, _LOST):
        return ServiceUnavailable("The database is not available")
    return error


def _is_useless(error: BaseException) -> bool:
    """Whether the connection that raised this must not be used again, nor waited for: dead, mute, or interrupted."""
    return isinstance(error, (TimeoutError, *_LOST)) or not isinstance(error, Exception)


class _Statements:
    """Runs statements on one connection."""

    def __init__(self, driver: Any):
        self._driver = driver
        self.effects: list[Effect] = []

        self.told: list[Told] = []

    def tell(self, told: Sequence[Told]) -> None:
        self.told += told

    def after_commit(self, effect: Effect) -> None:
        self.effects.append(effect)

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]:
        compiled = statement.compiled("postgresql")
        try:
            rows = await self._driver.fetch(compiled.sql, *compiled.arguments(parameters))
        except _FAILURES as error:
            raise self._failed(error) from error
        return [compiled.build(row) for row in rows]

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None:
        rows = await self.all(statement, **parameters)
        return rows[0] if rows else None

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        compiled = statement.compiled("postgresql")
        tag = await self.execute(compiled.sql, *compiled.arguments(parameters))
        return int(tag.rsplit(" ", 1)[-1])

    async def many(self, statement: Statement[Any], rows: Sequence[dict[str, Any]]) -> None:
        compiled = statement.compiled("postgresql")
        try:
            await self._driver.executemany(compiled.sql, [compiled.arguments(row) for row in rows])
        except _FAILURES as error:
            raise self._failed(error) from error

    async def execute(self, sql: str, *values: Any) -> str:
        """Runs a text and answers PostgreSQL's tag, such as `UPDATE 1`."""
        try:
            return str(await self._driver.execute(sql, *values))
        except _FAILURES as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> Exception:
        if _is_useless(error):
            self._driver.terminate()
        return _translated(error)


_Ask = Callable[..., Awaitable[Any]]

_PATIENT = f"BEGIN READ ONLY; SET LOCAL statement_timeout = {PATIENCE_SECONDS * 1000:.0f}; " + (
    # How many rows a pattern finds differs by orders of magnitude: a plan for all of them is bad for most.
    "SET LOCAL plan_cache_mode = force_custom_plan"
)


async def _ask_patiently(connection: asyncpg.Connection, sql: str, *values: Any) -> Any:
    await connection.execute(_PATIENT)
    try:
        rows = await connection.fetch(sql, *values, timeout=PATIENCE_SECONDS + GRACE_SECONDS)
    except asyncpg.PostgresError:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")
    return rows


class _PoolReader:
    """A driver that takes a connection from the pool for each statement, and tries a second one when it was dead.

    Reads change nothing, so asking again is safe; it replaces a ping, and its round trip, before each.
    """

    def __init__(self, pool: Pool, ask: _Ask = asyncpg.Connection.fetch):
        self._pool = pool
        self._ask = ask

    async def fetch(self, sql: str, *values: Any) -> Any:
        try:
            return await self._fetch(sql, values)
        except TimeoutError:
            raise
        except _LOST:
            return await self._fetch(sql, values)

    async def _fetch(self, sql: str, values: tuple[Any, ...]) -> Any:
        connection = await self._pool.acquire()
        try:
            return await self._ask(connection, sql, *values)
        except BaseException as error:
            if _is_useless(error):
                connection.terminate()
            raise
        finally:
            self._pool.release(connection)

    def terminate(self) -> None:
        """The connection of a failed statement is gone already."""


class PostgresDatabase:
    dialect = "postgresql"
    reader: Reader
    patient: Reader

    def __init__(self, url: str, *, pool_size: int, statement_timeout: float):
        self._url = url
        self._statement_timeout = statement_timeout
        self._pool = Pool(self._connect, pool_size)
        self.reader = _Statements(_PoolReader(self._pool))
        self.patient = _Statements(_PoolReader(self._pool, _ask_patiently))

    async def open(self) -> None:
        try:
            self._pool.release(await self._pool.acquire())
        except _UNREACHABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            hint = "Check AI_AGENT_DATABASE_URL and that the server accepts connections"
            raise ConfigurationError(f"The database cannot be reached: {reason}", hint) from error

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            self._url,
            timeout=CONNECT_SECONDS,
            # The server itself ends a slow statement; this one is for a server that answers nothing any more.
            command_timeout=self._statement_timeout + GRACE_SECONDS,
            server_settings={
                "application_name": "ai-agent",
                "jit": "off",
                "statement_timeout": f"{self._statement_timeout * 1000:.0f}",
                "idle_in_transaction_session_timeout": f"{IDLE_SECONDS * 1000:.0f}",
            },
        )
        try:
            # It travels as the JSON that it is: nobody here decodes it.
            await connection.set_type_codec(
                "json", schema="pg_catalog", encoder=bytes, decoder=msgspec.Raw, format="binary"
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    def pool_use(self) -> PoolUse:
        return self._pool.use()

    async def close(self) -> None:
        await self._pool.close(CLOSE_SECONDS)

    async def write(
        self, statement: Statement[Any], *, told: Told | None = None, then: Effect | None = None, **parameters: Any
    ) -> None:
        if told is not None:
            statement, parameters = telling(statement), parameters | row(told)
        if (outer := shared_connection()) is not None:
            await outer.run(statement, **parameters)
            if then is not None:
                outer.after_commit(then)
            return
        connection = await self._acquire()
        try:
            # A single statement is a transaction by itself.
            await _Statements(connection).run(statement, **parameters)
        except asyncio.CancelledError:
            connection.terminate()
            raise
        finally:
            self._pool.release(connection)
        if then is not None:
            await then()

    @asynccontextmanager
    async def unit_of_work(self, *, lock_seconds: float | None = None) -> AsyncIterator[Connection]:
        if (outer := shared_connection()) is not None:
            yield outer
            return
        connection = await self._acquire()
        statements = _Statements(connection)
        try:
            bound = "" if lock_seconds is None else f"; SET LOCAL lock_timeout = {lock_seconds * 1000:.0f}"
            await statements.execute("BEGIN" + bound)
            yield statements
            # In the same trip, behind which no lock is held.
            await statements.execute(f"{as_text(statements.told)}COMMIT")
        except BaseException as error:
            await self._roll_back(connection, error)
            raise
        finally:
            self._pool.release(connection)
        for effect in statements.effects:
            await effect()

    async def _acquire(self) -> asyncpg.Connection:
        try:
            return await self._pool.acquire()
        except _FAILURES as error:
            raise _translated(error) from error

    @staticmethod
    async def _roll_back(connection: asyncpg.Connection, error: BaseException) -> None:
        if connection.is_closed():
            return
        if isinstance(error, Exception):
            try:
                await connection.execute("ROLLBACK")
            except _FAILURES:
                connection.terminate()
        else:
            # Cancelled, perhaps in the middle of a statement: the server rolls back what it has lost sight of.
            connection.terminate()
