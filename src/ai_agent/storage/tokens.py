"""Token families, their refresh tokens, and tickets for sockets. Secrets are known by their digests only."""

from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.fields import StoredJson
from ai_agent.domain.identity import Tier
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import api_keys, refresh_tokens, token_families, ws_tickets

FORGOTTEN_AT_ONCE = 1000


class Grant(msgspec.Struct, frozen=True):
    """What a valid API key allows just now."""

    key_id: UUID
    owner_id: str
    scopes: StoredJson
    tier: Tier
    expires_at: datetime | None


class Ticket(msgspec.Struct, frozen=True):
    """The principal who asked for a ticket; `valid_until` is when that one's credentials end."""

    subject: str
    scopes: StoredJson
    tier: Tier
    key_id: UUID | None
    family_id: UUID | None
    valid_until: datetime | None
    expires_at: datetime


_at = sa.bindparam("at", type_=api_keys.c.created_at.type)
_family_id = sa.bindparam("family_id", type_=token_families.c.id.type)
_digest = sa.bindparam("digest", type_=refresh_tokens.c.digest.type)
_valid_key = sa.select(
    api_keys.c.id.label("key_id"), api_keys.c.owner_id, api_keys.c.scopes, api_keys.c.tier, api_keys.c.expires_at
).where(api_keys.c.revoked_at.is_(None), sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > _at))
_GRANT = Statement(_valid_key.where(api_keys.c.id == sa.bindparam("key_id")), Grant)
_GRANT_OF_FAMILY = Statement(
    _valid_key.join_from(api_keys, token_families, token_families.c.key_id == api_keys.c.id).where(
        token_families.c.id == _family_id, token_families.c.revoked_at.is_(None)
    ),
    Grant,
)
_ADD_FAMILY: Statement[None] = Statement(
    sa.insert(token_families).values({c.name: sa.bindparam(c.name) for c in token_families.c if c.name != "revoked_at"})
)
_PROLONG: Statement[None] = Statement(
    sa.update(token_families)
    .where(token_families.c.id == _family_id, token_families.c.revoked_at.is_(None))
    .values(expires_at=sa.bindparam("expires_at"))
)
_REVOKE_FAMILY = Statement(
    sa.update(token_families)
    .where(token_families.c.id == _family_id, token_families.c.revoked_at.is_(None))
    .values(revoked_at=_at)
    .returning(token_families.c.owner_id),
    str,
)
_ADD: Statement[None] = Statement(
    sa.insert(refresh_tokens).values({c.name: sa.bindparam(c.name) for c in refresh_tokens.c if c.name != "used_at"})
)
_FAMILY_OF = Statement(sa.select(refresh_tokens.c.family_id).where(refresh_tokens.c.digest == _digest), UUID)
_unused = (refresh_tokens.c.digest == _digest, refresh_tokens.c.used_at.is_(None))
_USE: Statement[None] = Statement(
    sa.update(refresh_tokens).where(*_unused, refresh_tokens.c.expires_at > _at).values(used_at=_at)
)
_IS_UNUSED = Statement(sa.select(refresh_tokens.c.digest).where(*_unused), str)
_ADD_TICKET: Statement[None] = Statement(
    sa.insert(ws_tickets).values({c.name: sa.bindparam(c.name) for c in ws_tickets.c})
)
_IS_TICKET = Statement(sa.select(ws_tickets.c.digest).where(ws_tickets.c.digest == _digest), str)
_TAKE_TICKET = Statement(
    sa.delete(ws_tickets)
    .where(ws_tickets.c.digest == _digest)
    .returning(*(ws_tickets.c[name] for name in Ticket.__struct_fields__)),
    Ticket,
)


def _forget(table: sa.Table, key: str) -> Statement[None]:
    """Some at a time, and not those that another node removes just now: it must end within a statement's time."""
    old = table.alias("old")
    expired = sa.select(old.c[key]).where(old.c.expires_at < sa.bindparam("past"))
    some = expired.limit(sa.literal_column(str(FORGOTTEN_AT_ONCE))).with_for_update(skip_locked=True)
    return Statement(sa.delete(table).where(table.c[key].in_(some)))


# Families last: theirs that are left go with them.
_FORGET = [_forget(ws_tickets, "digest"), _forget(refresh_tokens, "digest"), _forget(token_families, "id")]


async def grant(reader: Reader, key_id: UUID, at: datetime) -> Grant | None:
    """None when the key is revoked or expired."""
    return await reader.first(_GRANT, key_id=key_id, at=at)


async def grant_of_family(reader: Reader, family_id: UUID, at: datetime) -> Grant | None:
    """What the family's key allows; None when that is revoked or expired, or the family is revoked or gone."""
    return await reader.first(_GRANT_OF_FAMILY, family_id=family_id, at=at)


async def add_family(rows: Connection, family_id: UUID, grant: Grant, expires_at: datetime, at: datetime) -> None:
    await rows.run(
        _ADD_FAMILY,
        id=family_id,
        owner_id=grant.owner_id,
        key_id=grant.key_id,
        expires_at=expires_at,
        created_at=at,
    )


async def prolong(rows: Connection, family_id: UUID, expires_at: datetime) -> bool:
    """False when the family is revoked. Until the transaction ends, nobody revokes it."""
    return await rows.run(_PROLONG, family_id=family_id, expires_at=expires_at) == 1


async def revoke_family(rows: Connection, family_id: UUID, at: datetime) -> str | None:
    """The family's owner; None when it was revoked before."""
    return await rows.first(_REVOKE_FAMILY, family_id=family_id, at=at)


async def add(rows: Connection, digest: str, family_id: UUID, expires_at: datetime, at: datetime) -> None:
    await rows.run(_ADD, digest=digest, family_id=family_id, expires_at=expires_at, created_at=at)


async def family_of(reader: Reader, digest: str) -> UUID | None:
    """The family of a refresh token, whether it is used or not."""
    return await reader.first(_FAMILY_OF, digest=digest)


async def use(rows: Connection, digest: str, at: datetime) -> bool:
    """Whether the refresh token was good, and is used now. Of two at once, the second waits and is told no."""
    return await rows.run(_USE, digest=digest, at=at) == 1


async def is_unused(rows: Connection, digest: str) -> bool:
    return await rows.first(_IS_UNUSED, digest=digest) is not None


async def add_ticket(rows: Connection, digest: str, ticket: Ticket) -> None:
    await rows.run(_ADD_TICKET, digest=digest, **msgspec.structs.asdict(ticket))


async def is_ticket(reader: Reader, digest: str) -> bool:
    return await reader.first(_IS_TICKET, digest=digest) is not None


async def take_ticket(rows: Connection, digest: str) -> Ticket | None:
    """Removes the ticket: whoever gets it is the only one."""
    return await rows.first(_TAKE_TICKET, digest=digest)


async def forget(rows: Connection, past: datetime) -> int:
    """Removes some of what ended before, and tells how many rows that were; none are left when it is 0."""
    for statement in _FORGET:
        if removed := await rows.run(statement, past=past):
            return removed
    return 0
