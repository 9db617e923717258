"""`ai-agent keys`: straight on the database."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import rich_click as click

from ai_agent.domain.api_keys import ApiKey, CreateApiKey, NewApiKey
from ai_agent.domain.audit import Actor
from ai_agent.domain.errors import ConfigurationError, Conflict, NotFound
from ai_agent.domain.fields import now
from ai_agent.domain.identity import BUILT_IN, OPERATOR, Scope, Tier
from ai_agent.security import api_keys
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.services.paging import Pager
from ai_agent.settings import load_settings
from ai_agent.storage import migrations
from ai_agent.storage.engine import create_database
from ai_agent.storage.keyset import CursorCodec

CLI = Actor(f"{BUILT_IN}cli")


@asynccontextmanager
async def _service() -> AsyncIterator[ApiKeyService]:
    settings = load_settings()
    settings.directory.mkdir(parents=True, exist_ok=True)
    database = create_database(settings.database, pool_size=1, statement_timeout=settings.db_statement_timeout)
    await database.open()
    try:
        await migrations.prepare(database, settings.database)
        hasher = api_keys.KeyHasher(settings.secret, settings.secret_key_fallbacks)
        pager = Pager(database, CursorCodec(settings.secret))
        yield ApiKeyService(database, hasher, settings.environment, pager)
    finally:
        await database.close()


def create(name: str, owner: str, scopes: list[str], tier: str, expires: Any, *, as_json: bool) -> None:
    """Raises click.UsageError for a scope that does not exist, InvalidFields."""
    unknown = [scope for scope in scopes if scope not in list(Scope)]
    if unknown:
        raise click.UsageError(f"No such scope: {', '.join(unknown)}. There are: {', '.join(Scope)}")
    wanted = CreateApiKey(
        name=name,
        owner_id=owner,
        scopes=[Scope(scope) for scope in scopes] or [Scope.ADMIN],
        tier=Tier(tier),
        expires_at=expires.replace(tzinfo=UTC) if isinstance(expires, datetime) else None,
    )

    async def run() -> NewApiKey:
        async with _service() as keys:
            return await keys.create(OPERATOR, CLI, wanted)

    _show_once(asyncio.run(run()), as_json=as_json)


def rotate(key_id: Any, overlap_seconds: int, *, as_json: bool) -> None:
    """Raises ConfigurationError for a key that is not there, or has ended."""

    async def run(wanted: UUID) -> NewApiKey:
        async with _service() as keys:
            return await keys.rotate(OPERATOR, CLI, wanted, overlap_seconds)

    try:
        _show_once(asyncio.run(run(key_id)), as_json=as_json)
    except NotFound as error:
        raise _unknown(key_id) from error
    except Conflict as error:
        successor = (error.details or {}).get("rotated_to")
        hint = f"Rotate its successor: ai-agent keys rotate {successor}" if successor else "See: ai-agent keys create"
        raise ConfigurationError(f"{key_id}: {error.message}", hint) from error


def _show_once(made: NewApiKey, *, as_json: bool) -> None:
    click.echo(msgspec.json.encode(made) if as_json else f"{made.key}\n\nid {made.id}; shown this once.")


def list_keys(*, as_json: bool) -> None:
    async def run() -> Sequence[ApiKey]:
        async with _service() as keys:
            return await keys.list_all()

    found = asyncio.run(run())
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for key in found:
        used = f"used {key.last_used_at:%Y-%m-%d %H:%M}Z" if key.last_used_at else "never used"
        scopes = ", ".join(sorted(key.scope_set()))
        click.echo(f"{key.id}  {_state(key):8} {used:22} {key.owner_id:20} {key.name:20} {scopes}")


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expired(now()) else "rotated" if key.rotated_to else "valid"


def revoke(key_id: Any) -> None:
    """Raises ConfigurationError for a key that is not there."""

    async def run(wanted: UUID) -> bool:
        async with _service() as keys:
            return await keys.revoke(CLI, wanted)

    try:
        revoked = asyncio.run(run(key_id))
    except NotFound as error:
        raise _unknown(key_id) from error
    click.echo(f"Revoked {key_id}" if revoked else f"{key_id} was revoked already")


def _unknown(key_id: object) -> ConfigurationError:
    return ConfigurationError(f"There is no key {key_id}", "See: ai-agent keys list")


def generate() -> None:
    click.echo(api_keys.generate(load_settings().environment))
