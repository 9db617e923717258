"""What nodes must hear of within a second: credentials that were revoked, or that end at another time now.

Triggers write it (migration 0009), whoever makes the change. Changes are numbered in the order of their commits, so a
node that has seen a number has seen all before it, whatever the clocks say. A credential is `key:<id of an API key>`
or `family:<id of a token family>`.
"""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import credential_changes as changes
from ai_agent.storage.tables import sequences

AT_ONCE = 1000


class _Change(msgspec.Struct, frozen=True):
    newest: int
    seq: int | None
    credential: str | None


# One row without a change, when there is none: the newest number is always told, as of the same moment.
_SINCE = Statement(
    sa.select(sequences.c.value.label("newest"), changes.c.seq, changes.c.credential)
    .join_from(sequences, changes, changes.c.seq > sa.bindparam("seen", type_=changes.c.seq.type), isouter=True)
    .where(sequences.c.name == sa.literal_column("'credential_changes'"))
    .order_by(changes.c.seq)
    .limit(sa.bindparam("at_most", type_=sa.Integer)),
    _Change,
)
_FORGET: Statement[None] = Statement(sa.delete(changes).where(changes.c.until < sa.bindparam("past")))


async def since(reader: Reader, seen: int) -> tuple[int, dict[int, str]]:
    """The newest number there is, and at most AT_ONCE credentials behind the last number seen, in order."""
    rows = await reader.all(_SINCE, seen=seen, at_most=AT_ONCE)
    return rows[0].newest, {row.seq: row.credential for row in rows if row.seq is not None and row.credential}


async def forget(rows: Connection, past: datetime) -> int:
    return await rows.run(_FORGET, past=past)
