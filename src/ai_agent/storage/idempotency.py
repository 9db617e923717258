"""Idempotency keys: what was answered to a key, kept beside the effect of the request, in its transaction."""

from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ai_agent.domain.fields import StoredJson
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.storage.database import Connection
from ai_agent.storage.functions import seconds_from_now
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import idempotency_keys as keys

FORGOTTEN_AT_ONCE = 1000


class StoredAnswer(msgspec.Struct, frozen=True):
    """What the first request left: its answer, or the execution whose answer it is."""

    body_digest: str
    status: int | None
    headers: StoredJson
    body: bytes | None
    execution_id: UUID | None


_mine = (
    keys.c.owner_id == sa.bindparam("owner"),
    keys.c.path == sa.bindparam("path"),
    keys.c.key == sa.bindparam("key_text"),
)
_claimed = insert(keys).values(
    owner_id=sa.bindparam("owner"),
    path=sa.bindparam("path"),
    key=sa.bindparam("key_text"),
    body_digest=sa.bindparam("digest"),
    execution_id=sa.bindparam("execution_id"),
    created_at=sa.bindparam("at"),
)
_CLAIM = Statement(
    _claimed.on_conflict_do_update(
        index_elements=[keys.c.owner_id, keys.c.path, keys.c.key],
        set_={
            "body_digest": _claimed.excluded.body_digest,
            "execution_id": _claimed.excluded.execution_id,
            "created_at": _claimed.excluded.created_at,
            "status": sa.null(),
        },
        where=keys.c.created_at < sa.bindparam("expired", type_=keys.c.created_at.type),
    ).returning(keys.c.key),
    str,
)
_GET = Statement(sa.select(*(keys.c[name] for name in StoredAnswer.__struct_fields__)).where(*_mine), StoredAnswer)
_STORE: Statement[None] = Statement(
    sa.update(keys)
    .where(*_mine)
    .values(
        status=sa.bindparam("status"),
        headers=sa.bindparam("headers", type_=keys.c.headers.type),
        body=sa.bindparam("body"),
    )
)
_unanswered = keys.c.status.is_(sa.null())
_LEASE: Statement[None] = Statement(
    sa.update(keys).where(*_mine, _unanswered).values(lease_until=seconds_from_now(sa.bindparam("lease")))
)
_TAKE_OVER = Statement(
    sa.update(keys)
    .where(*_mine, _unanswered, keys.c.lease_until < seconds_from_now(sa.literal_column("0")))
    .values(lease_until=seconds_from_now(sa.bindparam("lease")))
    .returning(keys.c.key),
    str,
)
_RELEASE: Statement[None] = Statement(sa.delete(keys).where(*_mine, _unanswered))
_old = keys.alias("old")
_identity = ("owner_id", "path", "key")
# Some at a time, and not those that another node removes just now: it must end within a statement's time.
_FORGET: Statement[None] = Statement(
    sa.delete(keys).where(
        sa.tuple_(*(keys.c[name] for name in _identity)).in_(
            sa.select(*(_old.c[name] for name in _identity))
            .where(_old.c.created_at < sa.bindparam("expired"))
            .limit(sa.literal_column(str(FORGOTTEN_AT_ONCE)))
            .with_for_update(skip_locked=True)
        )
    )
)


async def claim(
    connection: Connection,
    owner: str,
    key: IdempotencyKey,
    *,
    execution_id: UUID | None,
    at: datetime,
    expired: datetime,
) -> bool:
    """Takes the key, also from a request older than `expired`. Waits for a transaction that has just taken it."""
    taken = await connection.first(
        _CLAIM,
        owner=owner,
        path=key.path,
        key_text=key.text,
        digest=key.body_digest,
        execution_id=execution_id,
        at=at,
        expired=expired,
    )
    return taken is not None


async def get(connection: Connection, owner: str, key: IdempotencyKey) -> StoredAnswer | None:
    return await connection.first(_GET, owner=owner, path=key.path, key_text=key.text)


async def lease(connection: Connection, owner: str, key: IdempotencyKey, seconds: float) -> None:
    """Says until when a key that was just taken is worked on, in a time that the database measures."""
    await connection.run(_LEASE, owner=owner, path=key.path, key_text=key.text, lease=seconds)


async def take_over(connection: Connection, owner: str, key: IdempotencyKey, seconds: float) -> bool:
    """Takes a key whose lease has run out without an answer."""
    of_key = {"owner": owner, "path": key.path, "key_text": key.text}
    return await connection.first(_TAKE_OVER, **of_key, lease=seconds) is not None


async def release(connection: Connection, owner: str, key: IdempotencyKey) -> None:
    """Gives back a key that has no answer."""
    await connection.run(_RELEASE, owner=owner, path=key.path, key_text=key.text)


async def store(
    connection: Connection, owner: str, key: IdempotencyKey, *, status: int, headers: StoredJson, body: bytes
) -> None:
    await connection.run(
        _STORE, owner=owner, path=key.path, key_text=key.text, status=status, headers=headers, body=body
    )


async def forget(connection: Connection, expired: datetime) -> int:
    """Removes some of the keys that are older, and tells how many they were."""
    return await connection.run(_FORGET, expired=expired)
