"""`ai-agent rotate-secrets`: straight on the database."""

import asyncio

import rich_click as click

from ai_agent.domain.errors import ConfigurationError
from ai_agent.security.secret_box import SecretBox
from ai_agent.services.secrets import Rotation, rotate
from ai_agent.settings import load_settings
from ai_agent.storage import migrations
from ai_agent.storage.engine import create_database
from ai_agent.storage.secrets import SEALED


def rotate_secrets() -> None:
    """Prints a line a table. Raises ConfigurationError when some secrets are opened by no key."""
    done = asyncio.run(_rotate())
    if unreadable := sorted({str(row) for rotation in done for row in rotation.unreadable}):
        names = ", ".join(unreadable[:5]) + (" and more" if len(unreadable) > 5 else "")
        hint = "Add the key they were stored under to AI_AGENT_SECRET_KEY_FALLBACKS, or write these secrets again"
        raise ConfigurationError(f"No key opens the secrets of {names}", hint)


async def _rotate() -> list[Rotation]:
    settings = load_settings()
    box = SecretBox(settings.secret, settings.secret_key_fallbacks)
    database = create_database(settings.database, pool_size=1, statement_timeout=settings.db_statement_timeout)
    await database.open()
    try:
        await migrations.prepare(database, settings.database)
        return [_told(await rotate(database, box, table)) for table in SEALED]
    finally:
        await database.close()


def _told(done: Rotation) -> Rotation:
    click.echo(f"{done.table}: {done.rows} rows with secrets, {done.resealed} re-encrypted")
    return done
