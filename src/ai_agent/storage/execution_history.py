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
    """All columns come from one index. Ranks are given apart from the sums: SQLite sorts few columns much faster."""
    runs = _runs()
    whole = sa.select(_count(runs.c.latency), _count(runs.c.first_token)).cte("whole")
    buckets = _buckets(runs)
    latencies, first_tokens = _latencies(runs, buckets, whole), _first_tokens(runs, whole)
    rows = buckets.outerjoin(latencies, latencies.c.of_bucket == buckets.c.bucket).join(first_tokens, sa.true())
    columns = [*buckets.c, *latencies.c, *first_tokens.c]
    named = {column.key: column for column in columns}
    return sa.select(*(named[name] for name in BucketTotals.__struct_fields__)).select_from(rows)


def _runs() -> sa.CTE:
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


def _buckets(runs: sa.CTE) -> sa.CTE:
    count = sa.func.count()
    return (
        sa.select(
            runs.c.bucket,
            *(count.filter(runs.c.status == status.value).label(status.value) for status in ExecutionStatus),
            sa.func.coalesce(sa.func.sum(runs.c.input_tokens), 0).label("input_tokens"),
            sa.func.coalesce(sa.func.sum(runs.c.output_tokens), 0).label("output_tokens"),
            sa.func.coalesce(sa.func.sum(runs.c.cost), 0.0).label("cost"),
            sa.func.sum(runs.c.tool_call_count).label("tool_calls"),
            _count(runs.c.latency),
        )
        .group_by(runs.c.bucket)
        .cte("buckets")
    )


def _latencies(runs: sa.CTE, buckets: sa.CTE, whole: sa.CTE) -> sa.CTE:
    value = runs.c.latency
    place = sa.func.row_number().over(order_by=value).label("place")
    place_in_bucket = sa.func.row_number().over(partition_by=runs.c.bucket, order_by=value).label("place_in_bucket")
    ranked = sa.select(runs.c.bucket, value, place, place_in_bucket).where(value.is_not(None)).cte("latencies")
    return (
        sa.select(
            ranked.c.bucket.label("of_bucket"),
            *_percentiles(ranked.c.latency, ranked.c.place, whole.c.latency_count),
            _reached(ranked.c.latency, ranked.c.place_in_bucket, buckets.c.latency_count, 95).label("bucket_p95"),
        )
        .select_from(ranked.join(buckets, buckets.c.bucket == ranked.c.bucket).join(whole, sa.true()))
        .group_by(ranked.c.bucket)
        .cte("latency_percentiles")
    )


def _first_tokens(runs: sa.CTE, whole: sa.CTE) -> sa.CTE:
    value = runs.c.first_token
    place = sa.func.row_number().over(order_by=value).label("place")
    ranked = sa.select(value, place).where(value.is_not(None)).cte("first_tokens")
    return (
        sa.select(*_percentiles(ranked.c.first_token, ranked.c.place, whole.c.first_token_count))
        .select_from(ranked.join(whole, sa.true()))
        .cte("first_token_percentiles")
    )


def _count(value: sa.ColumnElement[Any]) -> sa.Label[int]:
    """How many have a value."""
    return sa.func.count(value).label(f"{value.key}_count")


def _percentiles(
    value: sa.ColumnElement[Any], place: sa.ColumnElement[Any], count: sa.ColumnElement[Any]
) -> list[sa.Label[Any]]:
    return [_reached(value, place, count, percent).label(f"{value.key}_p{percent}") for percent in (50, 95, 99)]


def _reached(
    value: sa.ColumnElement[Any], place: sa.ColumnElement[Any], count: sa.ColumnElement[Any], percent: int
) -> sa.ColumnElement[Any]:
    """The smallest value whose place, from 1, is at least so many percent of all."""
    reaches = place * sa.literal_column("100") >= count * sa.literal_column(str(percent))
    return sa.func.min(value).filter(reaches)


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
