"""Limits of single principals. Triggers tell every node of a change (migration 0013)."""

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ai_agent.domain.rate_limit_overrides import RateLimitOverride
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.keyset import Listing
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import rate_limit_overrides as overrides

LIST = Listing(overrides, RateLimitOverride, owned=False)
CHANGED = "limits:*"
"""What credential changes call a change of any override."""

_COLUMNS = [overrides.c[name] for name in RateLimitOverride.__struct_fields__]
_THIS = overrides.c.user_id == sa.bindparam("user_id")
_ALL = Statement(sa.select(*_COLUMNS), RateLimitOverride)
_GET = Statement(sa.select(*_COLUMNS).where(_THIS), RateLimitOverride)
_added = insert(overrides).values({c.name: sa.bindparam(c.name) for c in overrides.c})
_PUT = Statement(
    _added.on_conflict_do_update(
        index_elements=["user_id"],
        set_={name: _added.excluded[name] for name in ("tier", "limits", "reason", "expires_at", "updated_at")},
    ).returning(*_COLUMNS),
    RateLimitOverride,
)
_DELETE: Statement[None] = Statement(sa.delete(overrides).where(_THIS))


async def all_of_them(reader: Reader) -> list[RateLimitOverride]:
    return await reader.all(_ALL)


async def get(reader: Reader, user_id: str) -> RateLimitOverride | None:
    return await reader.first(_GET, user_id=user_id)


async def put(rows: Connection, override: RateLimitOverride) -> RateLimitOverride:
    """In the place of the one that there is, which keeps its id and the time when it was made."""
    stored = await rows.first(_PUT, **msgspec.structs.asdict(override))
    assert stored is not None  # noqa: S101  # it answers the row, whichever it was
    return stored


async def delete(rows: Connection, user_id: str) -> bool:
    return await rows.run(_DELETE, user_id=user_id) == 1
