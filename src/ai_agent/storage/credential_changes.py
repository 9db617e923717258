"""What nodes must hear of within a second: credentials that were revoked, or whose rows say something else now.

Changes are numbered in the order of their commits, so a node that has seen a number has seen all before it, whatever
the clocks say. A credential is `key:<id of an API key>` or `family:<id of a token family>`.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa

from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import credential_changes as changes
from ai_agent.storage.tables import sequences

AT_ONCE = 1000


class CredentialChange(msgspec.Struct, frozen=True):
    seq: int
    credential: str
    revoked: bool
    until: datetime


_NEXT = Statement(
    sa.update(sequences)
    .where(sequences.c.name == sa.literal_column("'credential_changes'"))
    .values(value=sequences.c.value + 1)
    .returning(sequences.c.value),
    int,
)
_INSERT: Statement[None] = Statement(sa.insert(changes).values({c.name: sa.bindparam(c.name) for c in changes.c}))
_SINCE = Statement(
    sa.select(*changes.c)
    .where(changes.c.seq > sa.bindparam("seen", type_=changes.c.seq.type))
    .order_by(changes.c.seq)
    .limit(sa.literal_column(str(AT_ONCE))),
    CredentialChange,
)
_FORGET: Statement[None] = Statement(sa.delete(changes).where(changes.c.until < sa.bindparam("past")))


async def announce(rows: Connection, credential: str, *, revoked: bool, until: datetime) -> None:
    """Tells all nodes, when the transaction is committed. It is to be the last statement: others wait for its end.

    `until` is when a verification of the credential that somebody remembers would have ended by itself.
    """
    seq = await rows.first(_NEXT)
    await rows.run(_INSERT, seq=seq, credential=credential, revoked=revoked, until=until)


async def since(reader: Reader, seen: int) -> Sequence[CredentialChange]:
    """At most AT_ONCE changes behind the last number seen, in order."""
    return await reader.all(_SINCE, seen=seen)


async def forget(rows: Connection, past: datetime) -> int:
    return await rows.run(_FORGET, past=past)
