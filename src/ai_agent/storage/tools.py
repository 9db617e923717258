"""Registered tools of an owner."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.fields import StoredJson, to_json
from ai_agent.domain.search import fold
from ai_agent.domain.tools import TOOL_SECONDS, Tool, ToolKind, ToolSpec, is_idempotent
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among
from ai_agent.storage.keyset import Listing, containing
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import tools

LIST = Listing(tools, Tool, {"search": containing(tools.c.search_text)})

_COLUMNS = [tools.c[name] for name in (*Tool.__struct_fields__, VERSION)]
_MINE = (tools.c.id == sa.bindparam("tool_id"), tools.c.owner_id == sa.bindparam("owner"))
_GET = Statement(sa.select(*_COLUMNS).where(*_MINE), Tool)
_GET_FOR_UPDATE = Statement(sa.select(*_COLUMNS).where(*_MINE).with_for_update(), Tool)


class _Row(msgspec.Struct):
    """What a run needs of a tool."""

    id: UUID
    name: str
    kind: ToolKind
    description: str | None
    schema: StoredJson
    config: StoredJson
    secrets: StoredJson
    mcp_server_id: UUID | None
    requires_approval: bool
    enabled: bool


_SPEC = sa.select(*(tools.c[name] for name in _Row.__struct_fields__)).where(tools.c.owner_id == sa.bindparam("owner"))
_SPEC_OF = Statement(_SPEC.where(tools.c.id == sa.bindparam("tool_id")), _Row)
_NAMED = Statement(_SPEC.where(among(tools.c.name, sa.bindparam("names"))), _Row)
_OWN = ("secrets", "search_text")
_INSERT: Statement[None] = Statement(
    sa.insert(tools).values({name: sa.bindparam(name) for name in (*Tool.__struct_fields__, "owner_id", *_OWN)})
)
_KEPT = {"id", "created_at"}
_CHANGED = [name for name in (*Tool.__struct_fields__, *_OWN) if name not in _KEPT]
_UPDATE = Statement(
    sa.update(tools)
    .where(*_MINE)
    .values(
        {name: sa.bindparam(name, type_=tools.c[name].type) for name in _CHANGED}
        | {"row_version": tools.c.row_version + 1}
    )
    .returning(*_COLUMNS),
    Tool,
)
_SECRETS = Statement(sa.select(tools.c.secrets).where(*_MINE), msgspec.Raw)
_DELETE: Statement[None] = Statement(sa.delete(tools).where(*_MINE))


async def get(connection: Reader, owner: str, tool_id: UUID, *, for_update: bool = False) -> Tool | None:
    statement = _GET_FOR_UPDATE if for_update else _GET
    return await connection.first(statement, tool_id=tool_id, owner=owner)


async def named(connection: Reader, owner: str, names: Sequence[str]) -> list[ToolSpec]:
    """Those of the names that are registered, also when they are disabled; in no order."""
    return [_spec(row) for row in await connection.all(_NAMED, owner=owner, names=list(names))]


async def spec(connection: Reader, owner: str, tool_id: UUID) -> ToolSpec | None:
    row = await connection.first(_SPEC_OF, owner=owner, tool_id=tool_id)
    return None if row is None else _spec(row)


def _spec(row: _Row) -> ToolSpec:
    config = msgspec.json.decode(row.config)
    return ToolSpec(
        name=row.name,
        kind=row.kind,
        description=row.description,
        schema=msgspec.json.decode(row.schema),
        requires_approval=row.requires_approval,
        idempotent=is_idempotent(row.kind, config),
        enabled=row.enabled,
        timeout_seconds=config.get("timeout_seconds") or TOOL_SECONDS,
        id=row.id,
        config=config,
        secrets=row.secrets,
        mcp_server_id=row.mcp_server_id,
    )


async def secrets(connection: Reader, owner: str, tool_id: UUID) -> StoredJson | None:
    """Those of the tool, sealed."""
    return await connection.first(_SECRETS, tool_id=tool_id, owner=owner)


async def insert(connection: Connection, owner: str, tool: Tool, secrets: StoredJson) -> None:
    """Raises UniqueViolation when the owner has a tool of this name."""
    await connection.run(_INSERT, **_values(tool, secrets), owner_id=owner)


async def insert_all(connection: Connection, owner: str, added: Sequence[Tool]) -> None:
    """Tools without secrets. Raises UniqueViolation as `insert` does."""
    await connection.many(_INSERT, [_values(tool, to_json({})) | {"owner_id": owner} for tool in added])


async def update(connection: Connection, owner: str, tool: Tool, secrets: StoredJson) -> Tool | None:
    """Raises UniqueViolation when the owner has another tool of this name."""
    return await connection.first(_UPDATE, **_values(tool, secrets), tool_id=tool.id, owner=owner)


def _values(tool: Tool, secrets: StoredJson) -> dict[str, object]:
    return msgspec.structs.asdict(tool) | {"secrets": secrets, "search_text": search_text(tool)}


def search_text(tool: Tool) -> str:
    return fold(f"{tool.name}\n{tool.description or ''}")


async def delete(connection: Connection, owner: str, tool_id: UUID) -> None:
    await connection.run(_DELETE, tool_id=tool_id, owner=owner)
