"""Runs migrations on the database that `ai-agent db` was given, or, under Alembic's own command, on the settings'."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from ai_agent.settings import load_settings
from ai_agent.storage.migrations import migration_engine
from ai_agent.storage.tables import metadata

# SQLite's own index of the search and its shadow tables; PostgreSQL's is an index like others.
SQLITE_SEARCH = "message_search"
POSTGRESQL_SEARCH = "ix_messages_search_text"


def migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # Rather fail than queue behind a long transaction, with everybody else behind us.
        connection.exec_driver_sql("SET lock_timeout = '2s'")
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
        include_name=lambda name, kind, _: kind != "table" or not str(name).startswith(SQLITE_SEARCH),
        include_object=lambda _, name, *__: name != POSTGRESQL_SEARCH or connection.dialect.name == "postgresql",
    )
    with context.begin_transaction():
        context.run_migrations()
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
