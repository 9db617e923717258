"""API keys, by the digest of the key or by id: of all owners, because only admins see them."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from ai_agent.domain.api_keys import ApiKey
from ai_agent.storage.database import Connection, Database, Reader
from ai_agent.storage.keyset import Listing
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import api_keys

LIST = Listing(api_keys, ApiKey, owned=False)

_COLUMNS = [api_keys.c[name] for name in ApiKey.__struct_fields__]
_THIS = api_keys.c.id == sa.bindparam("key_id")
_BY_DIGEST = Statement(sa.select(*_COLUMNS).where(api_keys.c.digest == sa.bindparam("digest")), ApiKey)
_LOCK = Statement(sa.select(*_COLUMNS).where(_THIS).with_for_update(), ApiKey)
_LIST = Statement(sa.select(*_COLUMNS).order_by(api_keys.c.created_at, api_keys.c.id), ApiKey)
_COUNT = Statement(sa.select(sa.func.count()).select_from(api_keys), int)
_INSERT: Statement[None] = Statement(sa.insert(api_keys).values({c.name: sa.bindparam(c.name) for c in api_keys.c}))
_ENDS = ("expires_at", "revoked_at", "rotated_to")
_END: Statement[None] = Statement(
    sa.update(api_keys).where(_THIS).values({n: sa.bindparam(n, type_=api_keys.c[n].type) for n in _ENDS})
)
_USED: Statement[None] = Statement(
    sa.update(api_keys)
    .where(_THIS, sa.or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < sa.bindparam("before")))
    .values(last_used_at=sa.bindparam("at"))
)


async def by_digest(connection: Reader, digest: str) -> ApiKey | None:
    return await connection.first(_BY_DIGEST, digest=digest)


async def lock(connection: Connection, key_id: UUID) -> ApiKey | None:
    """The key, which stays as it is until the transaction ends."""
    return await connection.first(_LOCK, key_id=key_id)


async def list_all(connection: Reader) -> list[ApiKey]:
    return await connection.all(_LIST)


async def count(connection: Reader) -> int:
    return await connection.first(_COUNT) or 0


async def insert(connection: Connection, key: ApiKey, digest: str) -> None:
    """Raises UniqueViolation for a digest that is there already."""
    values = {name: getattr(key, name) for name in ApiKey.__struct_fields__}
    await connection.run(_INSERT, digest=digest, **values)


async def end(connection: Connection, key: ApiKey) -> None:
    """Stores when a key ends, and what takes its place."""
    await connection.run(
        _END, key_id=key.id, expires_at=key.expires_at, revoked_at=key.revoked_at, rotated_to=key.rotated_to
    )


async def note_use(database: Database, key_id: UUID, at: datetime, before: datetime) -> None:
    """Stores the time of a use, unless there is one that is not older than `before`."""
    await database.write(_USED, key_id=key_id, at=at, before=before)
