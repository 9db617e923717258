"""Registered MCP servers of an owner, and when each is to be asked next whether it is there."""

from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.fields import StoredJson
from ai_agent.domain.mcp_servers import McpServer, McpServerStatus, Transport
from ai_agent.domain.search import fold
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import seconds_from_now
from ai_agent.storage.keyset import Listing, containing
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import mcp_servers as servers

LIST = Listing(servers, McpServer, {"search": containing(servers.c.search_text)})


class Configuration(msgspec.Struct, frozen=True):
    """All that a connection needs. `secrets` are sealed; `updated_at` tells one configuration from the next."""

    id: UUID
    owner_id: str
    name: str
    transport: Transport
    endpoint: str | None
    command: str | None
    authentication: StoredJson
    health_check_url: str | None
    enabled: bool
    secrets: StoredJson
    updated_at: datetime


class Checked(msgspec.Struct, frozen=True):
    """What a check leaves behind. What is None in a check that failed stays as it is in the row."""

    status: McpServerStatus
    failures: int
    last_error: str | None
    last_seen_at: datetime | None = None
    capabilities: StoredJson | None = None
    protocol_version: str | None = None
    tool_count: int | None = None


class Standing(msgspec.Struct, frozen=True):
    """How a server was when it was asked last."""

    status: McpServerStatus
    failures: int


class Count(msgspec.Struct, frozen=True):
    status: McpServerStatus
    count: int


_COLUMNS = [servers.c[name] for name in (*McpServer.__struct_fields__, VERSION)]
_CONFIGURATION = [servers.c[name] for name in Configuration.__struct_fields__]
_MINE = (servers.c.id == sa.bindparam("server_id"), servers.c.owner_id == sa.bindparam("owner"))
_GET = Statement(sa.select(*_COLUMNS).where(*_MINE), McpServer)
_GET_FOR_UPDATE = Statement(sa.select(*_COLUMNS).where(*_MINE).with_for_update(), McpServer)
_GET_CONFIGURATION = Statement(sa.select(*_CONFIGURATION).where(*_MINE), Configuration)
_now = seconds_from_now(sa.literal_column("0"))
_later = seconds_from_now(sa.bindparam("seconds", type_=sa.Float))
_INSERT: Statement[None] = Statement(
    sa.insert(servers).values(
        {name: sa.bindparam(name) for name in (*McpServer.__struct_fields__, "owner_id", "secrets", "search_text")}
        | {"next_check_at": _now}
    )
)
_WRITTEN = [
    name
    for name in McpServer.__struct_fields__
    if name not in {"id", "created_at", "capabilities", "protocol_version", "last_seen_at", "tool_count"}
]
_UPDATE = Statement(
    sa.update(servers)
    .where(*_MINE)
    .values(
        {name: sa.bindparam(name, type_=servers.c[name].type) for name in (*_WRITTEN, "secrets", "search_text")}
        | {"row_version": servers.c.row_version + 1, "next_check_at": _now, "failures": 0}
    )
    .returning(*_COLUMNS),
    McpServer,
)
_DELETE: Statement[None] = Statement(sa.delete(servers).where(*_MINE))
# Asked once a statement: PostgreSQL looks for no moving time in an index.
_is_due = servers.c.next_check_at <= sa.select(_now).scalar_subquery()
_asked = (servers.c.enabled == sa.true(), _is_due)
_DUE = Statement(
    sa.select(servers.c.id)
    .where(*_asked)
    .order_by(servers.c.next_check_at)
    .limit(sa.bindparam("row_limit", type_=sa.Integer)),
    UUID,
)
_STANDINGS = Statement(
    sa.select(*_COLUMNS)
    .where(servers.c.enabled == sa.true())
    .order_by(servers.c.status == McpServerStatus.CONNECTED.value, servers.c.created_at)
    .limit(sa.bindparam("row_limit", type_=sa.Integer)),
    McpServer,
)
_TAKE = Statement(
    sa.update(servers)
    .where(servers.c.id == sa.bindparam("server_id"), *_asked)
    .values(next_check_at=_later)
    .returning(*_CONFIGURATION),
    Configuration,
)
_as_configured = (servers.c.id == sa.bindparam("server_id"), servers.c.updated_at == sa.bindparam("configured_at"))
_STANDING = Statement(
    sa.select(*(servers.c[name] for name in Standing.__struct_fields__)).where(*_as_configured).with_for_update(),
    Standing,
)

_COUNTS = Statement(sa.select(servers.c.status, sa.func.count().label("count")).group_by(servers.c.status), Count)


def _or_present(name: str) -> "sa.ColumnElement[object]":
    return sa.func.coalesce(sa.bindparam(name, type_=servers.c[name].type), servers.c[name])


_KEEP = Statement(
    sa.update(servers)
    .where(*_as_configured)
    .values(
        {name: sa.bindparam(name, type_=servers.c[name].type) for name in ("status", "failures", "last_error")}
        | {name: _or_present(name) for name in ("last_seen_at", "capabilities", "protocol_version", "tool_count")}
        | {"next_check_at": _later, "row_version": servers.c.row_version + 1}
    )
    .returning(*_COLUMNS),
    McpServer,
)


async def standings(reader: Reader, limit: int) -> list[McpServer]:
    """Those of all owners that are enabled, those that are not there first."""
    return await reader.all(_STANDINGS, row_limit=limit)


async def get(connection: Reader, owner: str, server_id: UUID, *, for_update: bool = False) -> McpServer | None:
    statement = _GET_FOR_UPDATE if for_update else _GET
    return await connection.first(statement, server_id=server_id, owner=owner)


async def configuration(connection: Reader, owner: str, server_id: UUID) -> Configuration | None:
    return await connection.first(_GET_CONFIGURATION, server_id=server_id, owner=owner)


async def insert(connection: Connection, owner: str, server: McpServer, secrets: StoredJson) -> None:
    """Raises UniqueViolation when the owner has a server of this name."""
    await connection.run(_INSERT, **_values(server), owner_id=owner, secrets=secrets)


async def update(connection: Connection, owner: str, server: McpServer, secrets: StoredJson) -> McpServer | None:
    """Writes a configuration, to be checked at once. Raises UniqueViolation when another server has the name."""
    return await connection.first(_UPDATE, **_values(server), server_id=server.id, owner=owner, secrets=secrets)


def _values(server: McpServer) -> dict[str, object]:
    return msgspec.structs.asdict(server) | {"search_text": fold(f"{server.name}\n{server.description or ''}")}


async def delete(connection: Connection, owner: str, server_id: UUID) -> None:
    await connection.run(_DELETE, server_id=server_id, owner=owner)


async def due(reader: Reader, limit: int) -> list[UUID]:
    """Those that are to be asked, the longest due first."""
    return await reader.all(_DUE, row_limit=limit)


async def counts(reader: Reader) -> list[Count]:
    """How many there are of each status, of all owners."""
    return await reader.all(_COUNTS)


async def take(rows: Connection, server_id: UUID, seconds: float) -> Configuration | None:
    """Begins a check, which has so many seconds; None when another process was faster."""
    return await rows.first(_TAKE, server_id=server_id, seconds=seconds)


async def standing(rows: Connection, asked: Configuration) -> Standing | None:
    """How the server was, locked; None when it was changed or deleted since it was asked."""
    return await rows.first(_STANDING, server_id=asked.id, configured_at=asked.updated_at)


async def keep(rows: Connection, asked: Configuration, checked: Checked, seconds: float) -> McpServer | None:
    """Writes down a check; the next one comes after so many seconds."""
    values = msgspec.structs.asdict(checked)
    return await rows.first(_KEEP, server_id=asked.id, configured_at=asked.updated_at, seconds=seconds, **values)
