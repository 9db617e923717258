"""`ai-agent db`."""

import asyncio
from pathlib import Path

import rich_click as click

from ai_agent.settings import load_settings
from ai_agent.storage import migrations
from ai_agent.storage.engine import create_database


def _url() -> str:
    settings = load_settings()
    settings.directory.mkdir(parents=True, exist_ok=True)
    return settings.database


def upgrade(revision: str) -> None:
    asyncio.run(migrations.upgrade(_url(), revision))
    current()


def downgrade(revision: str) -> None:
    asyncio.run(migrations.downgrade(_url(), revision))
    current()


def current() -> None:
    click.echo(asyncio.run(_current()) or "no schema")


async def _current() -> str | None:
    settings = load_settings()
    database = create_database(_url(), pool_size=1, statement_timeout=settings.db_statement_timeout)
    await database.open()
    try:
        return await migrations.current_revision(database)
    finally:
        await database.close()


def check() -> None:
    asyncio.run(migrations.check(_url()))
    click.echo("The schema is the code's")


def backup(file: Path) -> None:
    asyncio.run(migrations.backup(_url(), file))
    click.echo(f"Copied to {file}")
