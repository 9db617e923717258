"""Executions as a list, and what those of an agent add up to."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ai_agent.domain.execution_history import BucketTotals
from ai_agent.domain.executions import Execution, ExecutionStatus
from ai_agent.storage.database import Reader
from ai_agent.storage.keyset import Listing
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import executions

LIST = Listing(executions, Execution, created="queued_at")


class Ready(msgspec.Struct, frozen=True):
    """The runs that a worker could begin."""

    count: int
    oldest: datetime | None


# Literal, because SQLite takes a partial index only for a condition that says what the index says. Who waits for his
# session's run to end waits for no worker.
_READY = sa.text("status IN ('queued', 'running') AND status = 'queued' AND holds_session")
READY = Statement(
    sa.select(sa.func.count().label("count"), sa.func.min(executions.c.queued_at).label("oldest"))
    .select_from(executions)
    .where(_READY),
    Ready,
)


class epoch_seconds(FunctionElement[int]):  # noqa: N801  # a SQL function's name
    """`epoch_seconds(time)`: whole seconds since 1970."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(epoch_seconds, "postgresql")
def _epoch_on_postgresql(element: FunctionElement[int], compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST(floor(extract(epoch FROM {compiler.process(element.clauses, **kw)})) AS BIGINT)"


@compiles(epoch_seconds, "sqlite")
def _epoch_on_sqlite(element: FunctionElement[int], compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST(strftime('%s', {compiler.process(element.clauses, **kw)}) AS INTEGER)"


def _totals() -> sa.Select[Any]:
    """All columns come from one index, and each run is ranked among all of the window and of its bucket."""
    ranked = _ranked(_runs()).cte("ranked")
    columns = ranked.c
    count = sa.func.count()
    return sa.select(
        columns.bucket,
        *(count.filter(columns.status == status.value).label(status.value) for status in ExecutionStatus),
        sa.func.coalesce(sa.func.sum(columns.input_tokens), 0).label("input_tokens"),
        sa.func.coalesce(sa.func.sum(columns.output_tokens), 0).label("output_tokens"),
        sa.func.coalesce(sa.func.sum(columns.cost), 0.0).label("cost"),
        sa.func.sum(columns.tool_call_count).label("tool_calls"),
        *(_reached(ranked, "latency", percent) for percent in (50, 95, 99)),
        *(_reached(ranked, "first_token", percent) for percent in (50, 95, 99)),
        _reached(ranked, "latency", 95, "bucket").label("bucket_p95"),
    ).group_by(columns.bucket)


def _runs() -> "sa.CTE":
    table = executions.c
    since = sa.bindparam("since_epoch", type_=sa.BigInteger)
    ended = sa.or_(table.status == ExecutionStatus.COMPLETED.value, table.status == ExecutionStatus.FAILED.value)
    return (
        sa.select(
            ((epoch_seconds(table.queued_at) - since) // sa.bindparam("bucket_seconds", type_=sa.BigInteger)).label(
                "bucket"
            ),
            table.status,
            sa.case((ended, table.latency_ms)).label("latency"),
            table.first_token_ms.label("first_token"),
            table.input_tokens,
            table.output_tokens,
            table.cost,
            table.tool_call_count,
        )
        .where(
            table.owner_id == sa.bindparam("owner"),
            table.agent_id == sa.bindparam("agent_id"),
            table.queued_at >= sa.bindparam("since"),
            table.queued_at < sa.bindparam("until"),
        )
        .cte("runs")
    )


def _ranked(runs: "sa.CTE") -> sa.Select[Any]:
    return sa.select(
        *runs.c,
        *_rank(runs.c.latency, "latency"),
        *_rank(runs.c.first_token, "first_token"),
        *_rank(runs.c.latency, "bucket", runs.c.bucket),
    )


def _rank(
    value: "sa.ColumnElement[int]", name: str, *within: "sa.ColumnElement[int]"
) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """Its place among all that have a value, from 1, and how many those are."""
    rank = sa.func.row_number().over(partition_by=[*within, value.is_(None)], order_by=value)
    return rank.label(f"{name}_rank"), sa.func.count(value).over(partition_by=within or None).label(f"{name}_count")


def _reached(ranked: "sa.CTE", name: str, percent: int, among: str | None = None) -> sa.Label[int]:
    """The smallest value whose rank is at least so many percent of all."""
    among = among or name
    rank, count = ranked.c[f"{among}_rank"], ranked.c[f"{among}_count"]
    reaches = rank * sa.literal_column("100") >= count * sa.literal_column(str(percent))
    return sa.func.min(ranked.c[name]).filter(reaches).label(f"{name}_p{percent}")


TOTALS = Statement(_totals(), BucketTotals)


async def totals(
    reader: Reader, owner: str, agent_id: UUID, *, since: datetime, until: datetime, bucket_seconds: int
) -> list[BucketTotals]:
    """The buckets in which there is a run. `since` is a whole second."""
    return await reader.all(
        TOTALS,
        owner=owner,
        agent_id=agent_id,
        since=since,
        until=until,
        since_epoch=int(since.timestamp()),
        bucket_seconds=bucket_seconds,
    )


async def ready(reader: Reader) -> Ready:
    found = await reader.first(READY)
    assert found is not None  # noqa: S101  # a count always answers
    return found
