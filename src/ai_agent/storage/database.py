"""The database as the other rooms see it: a reader, and units of work that are committed before anyone answers."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ai_agent.domain.errors import ConfigurationError, Conflict
from ai_agent.storage.statements import Statement

Row = TypeVar("Row")

ACQUIRE_SECONDS = 1.0
"""How long a statement waits for a free connection before it answers 503."""


class Reader(Protocol):
    """Runs statements that change nothing. Parameters are the names in the statement; missing ones are null.

    All methods raise ServiceUnavailable when the database is away, busy or too slow.
    """

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]: ...

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None: ...


class Connection(Reader, Protocol):
    """A transaction. Its methods raise UniqueViolation, and what those of a Reader raise."""

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        """Runs a statement without rows and tells how many it touched."""


class Database(Protocol):
    dialect: str
    reader: Reader
    """For reading without a transaction: each statement sees what is committed, and none waits for a writer."""

    async def open(self) -> None:
        """Raises ConfigurationError when the database cannot be reached."""

    async def close(self) -> None: ...

    def unit_of_work(self) -> AbstractAsyncContextManager[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""


class UniqueViolation(Conflict):
    """A unique constraint refused the row. `constraint` is its name, or its columns on SQLite."""

    def __init__(self, constraint: str):
        super().__init__("A row with these values exists already")
        self.constraint = constraint


def create_database(url: str, *, pool_size: int, statement_timeout: float) -> Database:
    """The database of an address; not opened yet. Raises ConfigurationError for an address nobody understands."""
    # The drivers import this module: each is loaded only where it is needed.
    if (path := sqlite_path(url)) is not None:
        from ai_agent.storage.sqlite import SqliteDatabase

        return SqliteDatabase(path)
    from ai_agent.storage.postgresql import PostgresDatabase

    return PostgresDatabase(url, pool_size=pool_size, statement_timeout=statement_timeout)


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL, None for PostgreSQL. Raises ConfigurationError for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed and parsed.drivername == "sqlite" and parsed.database:
        return Path(parsed.database)
    if parsed and parsed.drivername in {"postgresql", "postgres"}:
        return None
    hint = "Use postgresql://user:password@host/database or sqlite:////path/to/file.db"
    raise ConfigurationError("AI_AGENT_DATABASE_URL is not a database address that is understood", hint)
