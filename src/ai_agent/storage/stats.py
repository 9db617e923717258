"""How much there is of all owners, at a cost that does not grow with it."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ai_agent.domain.executions import ExecutionStatus
from ai_agent.storage.database import Reader
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import agents, api_keys, executions, mcp_servers, messages, sessions, tools

COUNTED = 10_000
"""So many rows are counted; how many more there are is estimated."""

TABLES = {table.name: table for table in (sessions, messages, agents, executions, tools, mcp_servers, api_keys)}


class estimated_rows(FunctionElement[int]):  # noqa: N801  # a SQL function's name
    """`estimated_rows('table')`: about how many rows a table has, without looking at them."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(estimated_rows, "postgresql")
def _estimated_on_postgresql(element: FunctionElement[int], compiler: SQLCompiler, **kw: Any) -> str:
    """As the last ANALYZE saw it; -1 before the first one."""
    table = compiler.process(element.clauses, **kw)
    return f"(SELECT CAST(reltuples AS BIGINT) FROM pg_class WHERE oid = to_regclass({table}))"  # noqa: S608  # of compiled parts


@compiles(estimated_rows, "sqlite")
def _estimated_on_sqlite(element: FunctionElement[int], compiler: SQLCompiler, **kw: Any) -> str:
    """Rows are numbered as they come; those that are gone are still counted."""
    table = compiler.process(element.clauses, **kw).strip("'")
    return f'(SELECT coalesce(max(rowid), 0) FROM "{table}")'  # noqa: S608  # of compiled parts


class RowCount(msgspec.Struct, frozen=True):
    """`counted` goes up to what is counted at most, and one more; `estimated` says how many there are then."""

    table: str
    counted: int
    estimated: int


class StatusCount(msgspec.Struct, frozen=True):
    status: ExecutionStatus
    count: int


class Used(msgspec.Struct, frozen=True):
    status: ExecutionStatus
    count: int
    input_tokens: int
    output_tokens: int
    cost: float


def _count(name: str, table: sa.Table) -> sa.Select[Any]:
    some = (
        sa.select(sa.literal_column("1")).select_from(table).limit(sa.bindparam("at_most", type_=sa.Integer)).subquery()
    )
    counted = sa.select(sa.func.count()).select_from(some).scalar_subquery()
    text: sa.ColumnClause[str] = sa.literal_column(f"'{name}'")
    return sa.select(text.label("table"), counted.label("counted"), estimated_rows(text).label("estimated"))


_COUNTS = Statement(sa.union_all(*(_count(name, table) for name, table in TABLES.items())), RowCount)
_how_many = sa.func.count().label("count")
# Literal, because SQLite takes a partial index only for a condition that says what the index says.
_UNFINISHED = sa.text("status IN ('queued', 'running')")
_WAITING = sa.text("holds_session AND status = 'waiting'")
_LIVE = Statement(
    sa.union_all(
        sa.select(executions.c.status, _how_many).where(_UNFINISHED).group_by(executions.c.status),
        sa.select(executions.c.status, _how_many).where(_WAITING).group_by(executions.c.status),
    ),
    StatusCount,
)


def _sum(column: "sa.Column[Any]") -> sa.Label[Any]:
    return sa.func.coalesce(sa.func.sum(column), sa.literal_column("0")).label(column.name)


# Ids are in the order of time: what is new is at the end of the primary key.
_ENDED = Statement(
    sa.select(
        executions.c.status,
        _how_many,
        *(_sum(executions.c[name]) for name in ("input_tokens", "output_tokens", "cost")),
    )
    .where(executions.c.id >= sa.bindparam("first"), executions.c.finished_at.is_not(None))
    .group_by(executions.c.status),
    Used,
)


async def counts(reader: Reader, most: int = COUNTED) -> list[RowCount]:
    return await reader.all(_COUNTS, at_most=most + 1)


async def live(reader: Reader) -> list[StatusCount]:
    return await reader.all(_LIVE)


async def ended(reader: Reader, since: datetime) -> list[Used]:
    """Of the runs that were accepted since then."""
    return await reader.all(_ENDED, first=_first_id(since))


def _first_id(since: datetime) -> UUID:
    """The smallest UUIDv7 of a moment. Source: RFC 9562, 5.7."""
    return UUID(int=(int(since.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62))
