"""Runs migrations on the connection that `ai_agent.storage.migrations` hands over, or on the settings' database."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from ai_agent.settings import load_settings
from ai_agent.storage.migrations import engine_url
from ai_agent.storage.tables import metadata


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
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_settings_database() -> None:
    engine = create_async_engine(engine_url(load_settings().database))
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is None:
    asyncio.run(migrate_settings_database())
else:
    migrate(given)
