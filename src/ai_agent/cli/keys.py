"""`ai-agent keys`: straight on the database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import rich_click as click

from ai_agent.domain.api_keys import ApiKey
from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.fields import now
from ai_agent.domain.identity import Scope, Tier
from ai_agent.security import api_keys
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.settings import load_settings
from ai_agent.storage import migrations
from ai_agent.storage.engine import create_database


@asynccontextmanager
async def _service() -> AsyncIterator[ApiKeyService]:
    settings = load_settings()
    settings.directory.mkdir(parents=True, exist_ok=True)
    database = create_database(settings.database, pool_size=1, statement_timeout=settings.db_statement_timeout)
    await database.open()
    try:
        await migrations.prepare(database, settings.database)
        hasher = api_keys.KeyHasher(settings.secret, settings.secret_key_fallbacks)
        yield ApiKeyService(database, hasher, settings.environment)
    finally:
        await database.close()


def create(name: str, owner: str, scopes: list[str], tier: str, expires: Any, *, as_json: bool) -> None:
    """Raises click.UsageError for a scope that does not exist."""
    unknown = [scope for scope in scopes if scope not in list(Scope)]
    if unknown:
        raise click.UsageError(f"No such scope: {', '.join(unknown)}. There are: {', '.join(Scope)}")
    expires_at = expires.replace(tzinfo=UTC) if isinstance(expires, datetime) else None

    async def run() -> tuple[ApiKey, str]:
        async with _service() as keys:
            return await keys.create(
                name=name, owner=owner, scopes=scopes or [Scope.ADMIN], tier=Tier(tier), expires_at=expires_at
            )

    stored, key = asyncio.run(run())
    if as_json:
        click.echo(msgspec.json.encode(msgspec.structs.asdict(stored) | {"key": key}))
    else:
        click.echo(f"{key}\n\nid {stored.id}; shown this once.")


def list_keys(*, as_json: bool) -> None:
    async def run() -> list[ApiKey]:
        async with _service() as keys:
            return await keys.list_all()

    found = asyncio.run(run())
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for key in found:
        expired = key.expires_at is not None and key.expires_at <= now()
        state = "revoked" if key.revoked_at else "expired" if expired else "valid"
        click.echo(f"{key.id}  {state:8} {key.owner_id:20} {key.name:20} {bytes(key.scopes).decode()}")


def revoke(key_id: Any) -> None:
    async def run(wanted: UUID) -> bool:
        async with _service() as keys:
            return await keys.revoke(wanted)

    if not asyncio.run(run(key_id)):
        raise ConfigurationError(f"There is no valid key {key_id}", "See: ai-agent keys list")
    click.echo(f"Revoked {key_id}")


def generate() -> None:
    click.echo(api_keys.generate(load_settings().environment))
