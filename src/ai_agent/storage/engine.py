"""Which database an address means."""

from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ai_agent.domain.errors import ConfigurationError
from ai_agent.storage.database import Database
from ai_agent.storage.postgresql import PostgresDatabase
from ai_agent.storage.sqlite import SqliteDatabase


def create_database(url: str, *, pool_size: int, statement_timeout: float) -> Database:
    """The database of an address; not opened yet. Raises ConfigurationError for an address nobody understands."""
    if (path := sqlite_path(url)) is not None:
        return SqliteDatabase(path, statement_timeout=statement_timeout)
    return PostgresDatabase(url, pool_size=pool_size, statement_timeout=statement_timeout)


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL, None for PostgreSQL. Raises ConfigurationError for anything else."""
    file = url.removeprefix("sqlite:///")  # All of it: a folder's name may hold what means something in a URL.
    if file != url and file not in {"", ":memory:"}:
        return Path(file)
    try:
        if make_url(url).drivername in {"postgresql", "postgres"}:
            return None
    except (ArgumentError, ValueError):
        pass
    hint = "Use postgresql://user:password@host/database or sqlite:////path/to/file.db"
    raise ConfigurationError("AI_AGENT_DATABASE_URL is not a database address that is understood", hint)
