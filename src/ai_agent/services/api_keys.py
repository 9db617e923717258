"""API keys: made, listed and revoked."""

from datetime import datetime
from uuid import UUID

from ai_agent.domain.api_keys import ApiKey
from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.identity import ADMIN_SUBJECT, Scope, Tier
from ai_agent.security.api_keys import KeyHasher, generate
from ai_agent.storage import api_keys
from ai_agent.storage.database import Database, Reader, UniqueViolation

LABEL_LENGTH = 255


class ApiKeyService:
    def __init__(self, database: Database, hasher: KeyHasher, environment: str):
        self._database = database
        self._hasher = hasher
        self._environment = environment

    async def create(
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

    async def ensure(self, key: str) -> None:
        """Makes a given admin key when it is absent; a revoked one stays revoked."""
        if await stored_key(self._database.reader, self._hasher, key) is not None:
            return
        try:
            await self.create(name="bootstrap", owner=ADMIN_SUBJECT, scopes=[Scope.ADMIN], key=key)
        except UniqueViolation:
            return

    async def any(self) -> bool:
        return await api_keys.count(self._database.reader) > 0

    async def list_all(self) -> list[ApiKey]:
        return await api_keys.list_all(self._database.reader)

    async def revoke(self, key_id: UUID) -> bool:
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


async def stored_key(reader: Reader, hasher: KeyHasher, key: str) -> ApiKey | None:
    """The key's row, also one that was made under an older secret key."""
    for digest in hasher.digests(key):
        if (stored := await api_keys.by_digest(reader, digest)) is not None:
            return stored
    return None
