"""The tools that come from an MCP server, which a sync writes all at once."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.search import fold
from ai_agent.domain.tools import Tool
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import tools

_OF_SERVER = (tools.c.owner_id == sa.bindparam("owner"), tools.c.mcp_server_id == sa.bindparam("server_id"))
_ALL = Statement(
    sa.select(*(tools.c[name] for name in Tool.__struct_fields__)).where(*_OF_SERVER).order_by(tools.c.id), Tool
)
_TAKEN = Statement(
    sa.select(tools.c.name).where(
        tools.c.owner_id == sa.bindparam("owner"), among(tools.c.name, sa.bindparam("names"))
    ),
    str,
)
_INSERT: Statement[None] = Statement(
    sa.insert(tools).values({name: sa.bindparam(name) for name in (*Tool.__struct_fields__, "owner_id", "search_text")})
)
_SYNCED = ("description", "schema", "config", "enabled", "updated_at", "search_text")
_UPDATE: Statement[None] = Statement(
    sa.update(tools)
    .where(tools.c.id == sa.bindparam("tool_id"))
    .values(
        {name: sa.bindparam(name, type_=tools.c[name].type) for name in _SYNCED}
        | {"row_version": tools.c.row_version + 1}
    )
)
_DELETE: Statement[None] = Statement(sa.delete(tools).where(*_OF_SERVER))


async def of_server(connection: Reader, owner: str, server_id: UUID) -> list[Tool]:
    """All of them, removed ones, too, the oldest first."""
    return await connection.all(_ALL, owner=owner, server_id=server_id)


async def taken(connection: Reader, owner: str, names: Sequence[str]) -> set[str]:
    """Those of the names that some tool of the owner has."""
    return set(await connection.all(_TAKEN, owner=owner, names=list(names)))


async def write(connection: Connection, owner: str, added: Sequence[Tool], changed: Sequence[Tool]) -> None:
    """Raises UniqueViolation when a name was taken meanwhile."""
    if added:
        await connection.many(
            _INSERT, [msgspec.structs.asdict(one) | _more(one) | {"owner_id": owner} for one in added]
        )
    if changed:
        await connection.many(
            _UPDATE,
            [
                {name: (msgspec.structs.asdict(one) | _more(one)).get(name) for name in _SYNCED} | {"tool_id": one.id}
                for one in changed
            ],
        )


def _more(tool: Tool) -> dict[str, object]:
    return {"search_text": fold(f"{tool.name}\n{tool.description or ''}")}


async def delete(connection: Connection, owner: str, server_id: UUID) -> None:
    await connection.run(_DELETE, owner=owner, server_id=server_id)
