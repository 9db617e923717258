"""Who calls: credentials are verified here."""

import time
from collections import OrderedDict
from datetime import datetime

import msgspec

from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.fields import now
from ai_agent.domain.identity import ADMIN_SUBJECT, Principal, Scope
from ai_agent.security.api_keys import KeyHasher, well_formed
from ai_agent.services.api_keys import ApiKeyService, stored_key
from ai_agent.storage.database import Database

CACHE_SECONDS = 1.0
CACHED_KEYS = 10_000

ANYONE = Principal(ADMIN_SUBJECT, frozenset({Scope.ADMIN}))
"""Everybody, when authentication is off."""


class IdentityService:
    def __init__(self, database: Database, hasher: KeyHasher, keys: ApiKeyService):
        self._database = database
        self._hasher = hasher
        self._keys = keys
        self._verified: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def known(self, token: str) -> Principal | None:
        """The principal of a key that was verified less than a second ago: a revocation is seen by then."""
        hit = self._verified.get(token)
        return hit[0] if hit is not None and hit[1] > time.monotonic() else None

    async def verify(self, token: str) -> Principal:
        """The principal of a key. Raises AuthenticationError; a mistyped key costs no query."""
        if not well_formed(token):
            raise AuthenticationError
        key = await stored_key(self._database.reader, self._hasher, token)
        if key is None or key.revoked_at is not None or _expired(key.expires_at):
            self._verified.pop(token, None)
            raise AuthenticationError
        principal = Principal(key.owner_id, frozenset(msgspec.json.decode(key.scopes)), key.tier, key.id)
        self._remember(token, principal)
        self._keys.note_use(key)
        return principal

    def _remember(self, token: str, principal: Principal) -> None:
        self._verified[token] = (principal, time.monotonic() + CACHE_SECONDS)
        self._verified.move_to_end(token)
        if len(self._verified) > CACHED_KEYS:
            self._verified.popitem(last=False)


def _expired(expires_at: datetime | None) -> bool:
    return expires_at is not None and expires_at <= now()
