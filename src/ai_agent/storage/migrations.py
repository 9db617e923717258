"""The schema's history: Alembic's scripts, run against either database through advanced-alchemy.

Both are imported only when there is something to migrate: they cost as much time as all the rest of a start.
"""

import asyncio
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import sqlalchemy as sa

from ai_agent.domain.errors import ConfigurationError
from ai_agent.storage.database import Database, Reader
from ai_agent.storage.engine import sqlite_path
from ai_agent.storage.statements import Statement

if TYPE_CHECKING:
    from advanced_alchemy.alembic.commands import AlembicCommands
    from sqlalchemy.ext.asyncio import AsyncEngine

HEAD = "0013"
"""The newest revision; a test holds it to the scripts, so that a start need not read them."""

SQLITE_SECONDS = 60
"""So long a migration waits for another one of the same file."""

_VERSION = Statement(sa.select(sa.column("version_num", sa.String)).select_from(sa.table("alembic_version")), str)


def migration_engine(url: str) -> "AsyncEngine":
    """An engine of SQLAlchemy's, which Alembic wants; connected by the drivers themselves, so every address is good."""
    from sqlalchemy.ext.asyncio import create_async_engine

    path = sqlite_path(url)
    if path is not None:
        # Python's driver begins no transaction for a change of the schema: it would be left half done. A second process
        # waits, too.
        options = {"isolation_level": None, "timeout": SQLITE_SECONDS}
        engine = create_async_engine(sa.URL.create("sqlite+aiosqlite", database=str(path)), connect_args=options)
        sa.event.listen(engine.sync_engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url))


def scripts() -> Path:
    """Beside the package when it is installed, at the top of the repository when it is worked on."""
    packaged = Path(__file__).parents[1] / "migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"


async def current_revision(database: Database) -> str | None:
    """The revision of an open database, None when it has no schema."""
    return await _read_version(database.reader)


async def _read_version(connection: Reader) -> str | None:
    try:
        return await connection.first(_VERSION)
    except Exception as error:
        # The two drivers name the missing table each in their own way.
        if type(error).__name__ == "UndefinedTableError" or "no such table" in str(error):
            return None
        raise


async def prepare(database: Database, url: str) -> None:
    """Migrates an embedded database; refuses to work on an older schema of PostgreSQL than the code's.

    A newer one is good: while a deploy goes on, or is taken back, the code of before runs on it.
    """
    revision = await current_revision(database)
    if revision is not None and revision >= HEAD:  # They are numbers of one length.
        return
    if database.dialect == "sqlite":
        await upgrade(url)
        return
    raise ConfigurationError(f"The database's schema is older than revision {HEAD}", "Run: ai-agent db upgrade")


async def upgrade(url: str, revision: str = "head") -> None:
    """Raises ConfigurationError when the database cannot be reached or there is no such revision."""
    await _run(url, lambda commands: commands.upgrade(revision))


async def downgrade(url: str, revision: str) -> None:
    """Raises what `upgrade` raises."""
    await _run(url, lambda commands: commands.downgrade(revision))


async def check(url: str) -> None:
    """Raises ConfigurationError when the database's schema differs from the code's."""
    await _run(url, lambda commands: commands.check())


async def _run(url: str, work: "Callable[[AlembicCommands], None]") -> None:
    from alembic.util.exc import CommandError

    try:
        # Alembic's scripts run a loop of their own.
        await asyncio.to_thread(lambda: work(_commands(url)))
    except CommandError as error:
        raise _explained(str(error)) from None
    except (OSError, TimeoutError, ValueError, sa.exc.DBAPIError, asyncpg.PostgresError) as error:
        if getattr(getattr(error, "orig", None), "sqlstate", None) == asyncpg.LockNotAvailableError.sqlstate:
            hint = "Repeat this when it is over, or end it: SELECT pid, xact_start, query FROM pg_stat_activity"
            raise ConfigurationError("A transaction of somebody else holds a table for longer than 2 s", hint) from None
        hint = "Check AI_AGENT_DATABASE_URL and that the server accepts connections"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(f"The database cannot be migrated: {reason}", hint) from error


def _explained(message: str) -> ConfigurationError:
    """What Alembic says, with what to do."""
    unknown = re.search(r"locate revision identified by '(.*)'", message)
    if unknown is None:
        return ConfigurationError(f"The schema: {message}", "Run: ai-agent db upgrade")
    if unknown[1].isdecimal() and unknown[1] > HEAD:
        hint = "Run the version that made it, or a newer one; it can also downgrade the schema"
        return ConfigurationError(f"Revision {unknown[1]} is newer than this version, which knows {HEAD}", hint)
    return ConfigurationError(f"There is no revision {unknown[1]}", f"Revisions are 0001 to {HEAD}, `head` and `base`")


def _commands(url: str) -> "AlembicCommands":
    from advanced_alchemy.alembic.commands import AlembicCommands
    from advanced_alchemy.config import AlembicAsyncConfig, SQLAlchemyAsyncConfig

    ini = scripts() / "alembic.ini"
    alembic = AlembicAsyncConfig(
        script_config=str(ini), script_location=str(ini.parent), version_table_name="alembic_version"
    )
    commands = AlembicCommands(SQLAlchemyAsyncConfig(engine_instance=migration_engine(url), alembic_config=alembic))
    commands.config.stdout = io.StringIO()
    return commands


def build_indexes(definitions: Mapping[str, str]) -> None:
    """Builds indexes on PostgreSQL, for a migration: `{name: "table (column, …)"}`.

    What is written meanwhile does not wait for it; it waits for every older transaction, a dump's for example. An index
    that an interrupted run has left behind, invalid, is built anew. What came before is committed, so it has to be
    written such that it may be done again.
    """
    from alembic import op

    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        for name, definition in definitions.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}")
        op.execute("SET lock_timeout = '2s'")
