"""Every table whose rows hold secrets, a batch at a time and of all owners: what `rotate-secrets` goes through."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.fields import StoredJson
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import Json, agent_versions, agents, mcp_servers, tools


class SealedRow(msgspec.Struct, frozen=True):
    """A row's secrets and the id that they are bound to; `part` tells the rows of one id apart."""

    id: UUID
    part: int
    secrets: StoredJson


BEGIN = SealedRow(UUID(int=0), -1, msgspec.Raw(b"{}"))
"""Before the first row."""


class SealedTable:
    """A table with a column `secrets`, each bound to a resource's name and the id in the column `identity`."""

    def __init__(self, resource: str, table: sa.Table, identity: str = "id", part: str | None = None):
        ids, secrets = table.c[identity], table.c.secrets
        self.resource = resource
        self.name = table.name
        number = table.c[part] if part else sa.literal_column("0", sa.Integer)
        bound = sa.tuple_(sa.bindparam("after_id", type_=ids.type), sa.bindparam("after_part", type_=sa.Integer))
        self._after = Statement(
            sa.select(ids.label("id"), number.label("part"), secrets)
            .where(
                ids >= sa.bindparam("after_id", type_=ids.type),  # For the index, which the pair may not find.
                sa.tuple_(ids, number) > bound,
                sa.cast(secrets, sa.Text) != sa.literal_column("'{}'"),
            )
            .order_by(ids, *([number] if part else []))
            .limit(sa.bindparam("row_limit", type_=sa.Integer)),
            SealedRow,
        )
        self._replace: Statement[None] = Statement(
            sa.update(table)
            .where(
                ids == sa.bindparam("row_id"),
                number == sa.bindparam("row_part", type_=sa.Integer),
                sa.cast(secrets, sa.Text) == sa.cast(sa.bindparam("before", type_=Json), sa.Text),
            )
            .values(secrets=sa.bindparam("fresh", type_=Json))
        )

    async def after(self, connection: Reader, last: SealedRow, limit: int) -> list[SealedRow]:
        """The rows with secrets behind the last one seen."""
        return await connection.all(self._after, after_id=last.id, after_part=last.part, row_limit=limit)

    async def replace(self, connection: Connection, changes: Sequence[tuple[SealedRow, StoredJson]]) -> None:
        """Writes fresh secrets where nobody else has written meanwhile."""
        values = [
            {"row_id": row.id, "row_part": row.part, "before": row.secrets, "fresh": fresh} for row, fresh in changes
        ]
        await connection.many(self._replace, values)


SEALED = (
    SealedTable("agents", agents),
    SealedTable("agents", agent_versions, "agent_id", "version"),
    SealedTable("tools", tools),
    SealedTable("mcp_servers", mcp_servers),
)
