"""Who calls: keys are verified, made, listed and revoked here."""

import time
from collections import OrderedDict
from datetime import datetime
from uuid import UUID

import msgspec

from ai_agent.domain.api_keys import ApiKey
from ai_agent.domain.errors import AuthenticationError, FieldError, InvalidFields
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.identity import ADMIN_SUBJECT, Principal, Scope, Tier
from ai_agent.security.api_keys import KeyHasher, generate, well_formed
from ai_agent.storage import api_keys
from ai_agent.storage.database import Database, UniqueViolation

CACHE_SECONDS = 1.0
CACHED_KEYS = 10_000
LABEL_LENGTH = 255

ANYONE = Principal(ADMIN_SUBJECT, frozenset({Scope.ADMIN}))
"""Everybody, when authentication is off."""


class IdentityService:
    def __init__(self, database: Database, hasher: KeyHasher, environment: str):
        self._database = database
        self._hasher = hasher
        self._environment = environment
        self._verified: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def known(self, token: str) -> Principal | None:
        """The principal of a key that was verified less than a second ago: a revocation is seen by then."""
        hit = self._verified.get(token)
        return hit[0] if hit is not None and hit[1] > time.monotonic() else None

    async def verify(self, token: str) -> Principal:
        """The principal of a key. Raises AuthenticationError; a mistyped key costs no query."""
        if not well_formed(token):
            raise AuthenticationError
        key = await self._stored(token)
        if key is None or key.revoked_at is not None or _expired(key.expires_at):
            self._verified.pop(token, None)
            raise AuthenticationError
        principal = Principal(key.owner_id, frozenset(msgspec.json.decode(key.scopes)), key.tier, str(key.id))
        self._remember(token, principal)
        return principal

    async def _stored(self, token: str) -> ApiKey | None:
        """The key's row, also one that was made under an older secret key."""
        for digest in self._hasher.digests(token):
            if (key := await api_keys.by_digest(self._database.reader, digest)) is not None:
                return key
        return None

    def _remember(self, token: str, principal: Principal) -> None:
        self._verified[token] = (principal, time.monotonic() + CACHE_SECONDS)
        self._verified.move_to_end(token)
        if len(self._verified) > CACHED_KEYS:
            self._verified.popitem(last=False)

    async def create_key(
        self,
        *,
        name: str,
        owner: str,
        scopes: list[str],
        tier: Tier = Tier.AUTHENTICATED,
        expires_at: datetime | None = None,
        key: str | None = None,
    ) -> tuple[ApiKey, str]:
        """Stores a key, a given one or a new one, and answers it this once. Raises InvalidFields, UniqueViolation."""
        _check_labels(name=name, owner=owner)
        secret = key or generate(self._environment)
        stored = ApiKey(
            id=new_id(),
            name=name,
            owner_id=owner,
            scopes=to_json(scopes),
            tier=tier,
            expires_at=expires_at,
            revoked_at=None,
            created_at=now(),
        )
        async with self._database.unit_of_work() as rows:
            await api_keys.insert(rows, stored, self._hasher.digest(secret))
        return stored, secret

    async def ensure_key(self, key: str) -> None:
        """Makes a given admin key when it is absent; a revoked one stays revoked."""
        if await self._stored(key) is not None:
            return
        try:
            await self.create_key(name="bootstrap", owner=ADMIN_SUBJECT, scopes=[Scope.ADMIN], key=key)
        except UniqueViolation:
            return

    async def has_keys(self) -> bool:
        return await api_keys.count(self._database.reader) > 0

    async def list_keys(self) -> list[ApiKey]:
        return await api_keys.list_all(self._database.reader)

    async def revoke_key(self, key_id: UUID) -> bool:
        """False when there is no such key, or it is revoked already."""
        async with self._database.unit_of_work() as rows:
            return await api_keys.revoke(rows, key_id, now())


def _check_labels(**labels: str) -> None:
    errors = [
        FieldError(field, f"Must have 1 to {LABEL_LENGTH} characters that can be seen")
        for field, text in labels.items()
        if not 0 < len(text) <= LABEL_LENGTH or not text.isprintable()
    ]
    if errors:
        raise InvalidFields(errors)


def _expired(expires_at: datetime | None) -> bool:
    return expires_at is not None and expires_at <= now()
