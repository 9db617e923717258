"""API keys, by the digest of the key or by id."""

from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.api_keys import ApiKey
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import api_keys

_COLUMNS = [api_keys.c[name] for name in ApiKey.__struct_fields__]
_BY_DIGEST = Statement(sa.select(*_COLUMNS).where(api_keys.c.digest == sa.bindparam("digest")), ApiKey)
_LIST = Statement(sa.select(*_COLUMNS).order_by(api_keys.c.created_at, api_keys.c.id), ApiKey)
_COUNT = Statement(sa.select(sa.func.count()).select_from(api_keys), int)
_INSERT: Statement[None] = Statement(
    sa.insert(api_keys).values({c.name: sa.bindparam(c.name) for c in api_keys.c if c.name != "last_used_at"})
)
_REVOKE: Statement[None] = Statement(
    sa.update(api_keys)
    .where(api_keys.c.id == sa.bindparam("key_id"), api_keys.c.revoked_at.is_(None))
    .values(revoked_at=sa.bindparam("at"))
)


async def by_digest(connection: Reader, digest: str) -> ApiKey | None:
    return await connection.first(_BY_DIGEST, digest=digest)


async def list_all(connection: Reader) -> list[ApiKey]:
    return await connection.all(_LIST)


async def count(connection: Reader) -> int:
    return await connection.first(_COUNT) or 0


async def insert(connection: Connection, key: ApiKey, digest: str) -> None:
    values = msgspec.structs.asdict(key) | {"digest": digest}
    await connection.run(_INSERT, **values)


async def revoke(connection: Connection, key_id: UUID, at: datetime) -> bool:
    return await connection.run(_REVOKE, key_id=key_id, at=at) == 1
