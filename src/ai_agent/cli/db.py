"""`ai-agent db`."""

import asyncio
from pathlib import Path

import rich_click as click

from ai_agent.backends import EVENTS_FILE
from ai_agent.settings import load_settings
from ai_agent.storage import copies, migrations
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
    copies.backup(_url(), file)
    click.echo(f"Copied to {file}")
    if (key := load_settings().directory / "secret.key").exists():
        click.echo(f"Keep {key} with it: without that key its API keys are unknown, and its secrets stay closed")


def restore(file: Path) -> None:
    """Events go with the database they tell of: whoever listens is told to look anew."""
    kept = copies.restore(_url(), file)
    for events in load_settings().directory.glob(f"{EVENTS_FILE}*"):
        events.unlink()
    click.echo(f"Restored from {file}" + (f"; what was there is now {kept}" if kept else ""))
