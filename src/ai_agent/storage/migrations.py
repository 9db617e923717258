"""The schema's history: Alembic's scripts, run against either database through advanced-alchemy.

Both are imported only when there is something to migrate: they cost as much time as all the rest of a start.
"""

import asyncio
import io
from collections.abc import Callable
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

_VERSION = Statement(sa.select(sa.column("version_num", sa.String)).select_from(sa.table("alembic_version")), str)


def migration_engine(url: str) -> "AsyncEngine":
    """An engine of SQLAlchemy's, which Alembic wants; connected by the drivers themselves, so every address is good."""
    from sqlalchemy.ext.asyncio import create_async_engine

    path = sqlite_path(url)
    if path is not None:
        return create_async_engine(sa.URL.create("sqlite+aiosqlite", database=str(path)))
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
        raise ConfigurationError(f"The schema: {error}", "Run: ai-agent db upgrade") from None
    except (OSError, TimeoutError, ValueError, sa.exc.DBAPIError, asyncpg.PostgresError) as error:
        hint = "Check AI_AGENT_DATABASE_URL and that the server accepts connections"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(f"The database cannot be migrated: {reason}", hint) from error


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
