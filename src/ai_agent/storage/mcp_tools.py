"""The tools that come from an MCP server, which a sync writes all at once."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from ai_agent.domain.tools import Tool
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import tools
from ai_agent.storage.tools import insert_all, search_text

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
_SYNCED = ("description", "schema", "config", "enabled", "updated_at")
_UPDATE: Statement[None] = Statement(
    sa.update(tools)
    .where(tools.c.id == sa.bindparam("tool_id"))
    .values(
        {name: sa.bindparam(name, type_=tools.c[name].type) for name in (*_SYNCED, "search_text")}
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
        await insert_all(connection, owner, added)
    if changed:
        await connection.many(_UPDATE, [_values(tool) for tool in changed])


def _values(tool: Tool) -> dict[str, object]:
    return {name: getattr(tool, name) for name in _SYNCED} | {"search_text": search_text(tool), "tool_id": tool.id}


async def delete(connection: Connection, owner: str, server_id: UUID) -> None:
    await connection.run(_DELETE, owner=owner, server_id=server_id)
