"""Executions that have been: lists of them, and what they add up to."""

import math
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import msgspec

from ai_agent.domain.executions import Execution, ExecutionStatus
from ai_agent.domain.pages import Filter, Page


class ExecutionPage(Page):
    """Executions of a list."""

    items: list[Execution]


class ExecutionFilter(Filter, frozen=True, kw_only=True):
    """Those of all that is set; `created_…` looks at `queued_at`."""

    status: ExecutionStatus | None = None
    agent_id: UUID | None = None
    session_id: UUID | None = None


class Window(StrEnum):
    """How far back metrics look, from now."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"

    @property
    def bucket_seconds(self) -> int:
        return _BUCKETS[self][1]

    def starts(self, at: datetime) -> list[datetime]:
        """Where the buckets begin; the last one ends with the minute of `at`, so that none is a part of one."""
        count, seconds = _BUCKETS[self]
        end = math.ceil(at.timestamp() / 60) * 60
        return [datetime.fromtimestamp(end, at.tzinfo) - timedelta(seconds=n * seconds) for n in range(count, 0, -1)]


_BUCKETS = {
    Window.HOUR: (12, 5 * 60),
    Window.DAY: (24, 60 * 60),
    Window.WEEK: (28, 6 * 60 * 60),
    Window.MONTH: (30, 24 * 60 * 60),
}
"""How many buckets, of how many seconds."""


class StatusCounts(msgspec.Struct):
    """How many runs stand where."""

    queued: int = 0
    running: int = 0
    waiting: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


class Percentiles(msgspec.Struct):
    """By nearest rank: the smallest value that so many percent of all do not exceed. Null where there is none."""

    p50: int | None = None
    p95: int | None = None
    p99: int | None = None


class TokenCounts(msgspec.Struct):
    """Tokens as the providers count them."""

    input: int = 0
    output: int = 0


class MetricsBucket(msgspec.Struct):
    """The runs that were asked for in one piece of the window."""

    start: datetime
    total: int = 0
    failed: int = 0
    latency_p95_ms: int | None = None
    tokens: int = 0


class AgentMetrics(msgspec.Struct):
    """What the runs of an agent that were asked for in the window add up to."""

    window: Window
    total: int
    by_status: StatusCounts
    success_rate: float | None
    latency_ms: Percentiles
    time_to_first_token_ms: Percentiles
    tokens: TokenCounts
    cost: float
    tool_calls: int
    series: list[MetricsBucket]


class BucketTotals(msgspec.Struct):
    """One bucket as the database adds it up.

    `latency_p…` are the smallest values of this bucket that reach the percentile of the whole window: the smallest of
    all buckets is the percentile. `first_token_p…` are of the whole window, and the same in each.
    """

    bucket: int
    queued: int
    running: int
    waiting: int
    completed: int
    failed: int
    cancelled: int
    input_tokens: int
    output_tokens: int
    cost: float
    tool_calls: int
    latency_p50: int | None
    latency_p95: int | None
    latency_p99: int | None
    first_token_p50: int | None
    first_token_p95: int | None
    first_token_p99: int | None
    bucket_p95: int | None


def added_up(window: Window, starts: list[datetime], totals: list[BucketTotals]) -> AgentMetrics:
    """The whole window, with every bucket of it, also those without a run."""
    by_status = StatusCounts(*(_sum(totals, name) for name in StatusCounts.__struct_fields__))
    ended_well_or_not = by_status.completed + by_status.failed
    series = [MetricsBucket(start) for start in starts]
    for one in totals:
        series[one.bucket] = _bucket(starts[one.bucket], one)
    return AgentMetrics(
        window=window,
        total=sum(bucket.total for bucket in series),
        by_status=by_status,
        success_rate=by_status.completed / ended_well_or_not if ended_well_or_not else None,
        latency_ms=_percentiles(totals, "latency"),
        time_to_first_token_ms=_percentiles(totals, "first_token"),
        tokens=TokenCounts(_sum(totals, "input_tokens"), _sum(totals, "output_tokens")),
        cost=math.fsum(one.cost for one in totals),
        tool_calls=_sum(totals, "tool_calls"),
        series=series,
    )


def _bucket(start: datetime, one: BucketTotals) -> MetricsBucket:
    total = sum(getattr(one, name) for name in StatusCounts.__struct_fields__)
    return MetricsBucket(start, total, one.failed, one.bucket_p95, one.input_tokens + one.output_tokens)


def _sum(totals: list[BucketTotals], name: str) -> int:
    return sum(getattr(one, name) for one in totals)


def _percentiles(totals: list[BucketTotals], of: str) -> Percentiles:
    names = [f"{of}_{percentile}" for percentile in Percentiles.__struct_fields__]
    reached = [[value for one in totals if (value := getattr(one, name)) is not None] for name in names]
    return Percentiles(*(min(values, default=None) for values in reached))
