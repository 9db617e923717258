"""Runs migrations on the database that `ai-agent db` was given, or, under Alembic's own command, on the settings'."""

import asyncio
import time

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from ai_agent.settings import load_settings
from ai_agent.storage.migrations import migration_engine
from ai_agent.storage.tables import metadata

# SQLite's own index of the search and its shadow tables; PostgreSQL's is an index like others.
SQLITE_SEARCH = "message_search"
POSTGRESQL_SEARCH = "ix_messages_search_text"

MIGRATING = int.from_bytes(b"ai-agent", "big") >> 1
"""The advisory lock of whoever migrates."""


def migrate(connection: Connection) -> None:
    on_postgresql = connection.dialect.name == "postgresql"
    if on_postgresql:
        _wait_for_others(connection)
        # Rather fail than queue behind a long transaction, with everybody else behind us.
        connection.exec_driver_sql("SET lock_timeout = '2s'")
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=not on_postgresql,
        # An embedded database is migrated as a whole; on PostgreSQL nobody is to wait for all of it.
        transactional_ddl=True,
        transaction_per_migration=on_postgresql,
        include_name=lambda name, kind, _: kind != "table" or not str(name).startswith(SQLITE_SEARCH),
        include_object=lambda _, name, *__: name != POSTGRESQL_SEARCH or on_postgresql,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


def _wait_for_others(connection: Connection) -> None:
    """One migrates at a time; the lock ends with the connection.

    It is asked for again and again: whoever waited inside a statement would be waited for by an index that is built
    concurrently.
    """
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({MIGRATING})").scalar():
        connection.rollback()
        time.sleep(0.2)
    connection.commit()


async def main() -> None:
    engine: AsyncEngine | None = getattr(context.config, "engine", None)
    engine = engine or migration_engine(load_settings().database)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


asyncio.run(main())
