"""Nodes of one database inside the test's own process: identity and tokens, without the rest of a server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

from ai_agent.domain.api_keys import ApiKey, CreateApiKey
from ai_agent.domain.audit import Actor
from ai_agent.domain.fields import now
from ai_agent.domain.identity import OPERATOR, Scope, Tier
from ai_agent.security.api_keys import REFRESH_TOKEN, TICKET, KeyHasher
from ai_agent.security.jwks import Jwks
from ai_agent.security.jwt import Jwt
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.services.identity import IdentityService
from ai_agent.services.paging import Pager
from ai_agent.services.tokens import Lifetimes, TokenService
from ai_agent.settings import Algorithm
from ai_agent.storage import api_keys
from ai_agent.storage.database import Database
from ai_agent.storage.keyset import CursorCodec
from tests.conftest import SECRET

ACTOR = Actor("tester", address="192.0.2.1", correlation_id="test")


class Node:
    def __init__(
        self,
        database: Database,
        *,
        jwks: Jwks | None = None,
        access: int = 600,
        refresh: int = 3600,
        secrets: Sequence[str] = (SECRET,),
    ):
        self.database = database
        newest, *older = secrets
        hasher, tickets = KeyHasher(newest, older), KeyHasher(newest, older, TICKET)
        jwt = Jwt(secrets, list(Algorithm), jwks)
        self._keys = ApiKeyService(database, hasher, "test", Pager(database, CursorCodec(newest)))
        self.identity = IdentityService(database, hasher, self._keys, tickets, jwt)
        refreshing = KeyHasher(newest, older, REFRESH_TOKEN)
        self.tokens = TokenService(database, jwt, refreshing, tickets, "test", Lifetimes(access, refresh))

    async def key(
        self, *scopes: str, owner: str = "alice", seconds: float | None = None, tier: Tier = Tier.AUTHENTICATED
    ) -> tuple[ApiKey, str]:
        """A new key, which expires in so many seconds."""
        end = None if seconds is None else now() + timedelta(seconds=seconds)
        wanted = CreateApiKey("test", [Scope(scope) for scope in scopes or ["sessions:read"]], owner, tier, end)
        made = await self._keys.create(OPERATOR, ACTOR, wanted)
        return made, made.key

    async def close(self) -> None:
        await self.identity.close()
        await self._keys.close()


@asynccontextmanager
async def node(database: Database, *, jwks: Jwks | None = None) -> AsyncIterator[Node]:
    """One that hears of changes."""
    started = Node(database, jwks=jwks)
    await started.identity.start()
    try:
        yield started
    finally:
        await started.close()


async def end_key(database: Database, key_id: UUID, expires_at: datetime | None = None) -> None:
    """Writes when a key ends, as code does it that announces nothing; without a time it is revoked."""
    async with database.unit_of_work() as rows:
        key = await api_keys.lock(rows, key_id)
        assert key is not None
        key.revoked_at, key.expires_at = None if expires_at else now(), expires_at
        await api_keys.end(rows, key)
