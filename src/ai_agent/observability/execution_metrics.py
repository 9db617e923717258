"""What `/metrics` tells of runs. Those that ended are counted by the process that ran them."""

from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

from ai_agent.domain.executions import ExecutionStatus, Usage
from ai_agent.observability.metrics import OF_ALL

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 3600)

EXECUTIONS = Counter("ai_agent_executions", "Runs that ended, by how", ["status"])
DURATION = Histogram(
    "ai_agent_execution_duration_seconds",
    "From being asked for to the end, by how it ended",
    ["status"],
    buckets=_SECONDS,
)
FIRST_TOKEN = Histogram(
    "ai_agent_execution_time_to_first_token_seconds", "From being asked for to the model's first word", buckets=_SECONDS
)
TOKENS = Counter("ai_agent_execution_tokens", "Tokens that runs used, as input or output", ["kind"])
TOOL_CALLS = Counter("ai_agent_execution_tool_calls", "Calls of tools in runs that ended")
QUEUE_DEPTH = Gauge(
    "ai_agent_execution_queue_depth",
    "Runs that a worker could begin; of all nodes. NaN: unknown",
    multiprocess_mode=OF_ALL,
)
QUEUE_AGE = Gauge(
    "ai_agent_execution_queue_age_seconds",
    "How long the oldest of them has waited; of all nodes. 0 without one",
    multiprocess_mode=OF_ALL,
)


def ended(
    status: ExecutionStatus,
    usage: Usage,
    *,
    queued_at: datetime,
    first_token_at: datetime | None,
    finished_at: datetime,
    tool_calls: int,
) -> None:
    """Counts a run; to be called once, when its end is committed."""
    EXECUTIONS.labels(status.value).inc()
    DURATION.labels(status.value).observe((finished_at - queued_at).total_seconds())
    if first_token_at is not None:
        FIRST_TOKEN.observe((first_token_at - queued_at).total_seconds())
    TOKENS.labels("input").inc(usage.input_tokens)
    TOKENS.labels("output").inc(usage.output_tokens)
    TOOL_CALLS.inc(tool_calls)


def queue_is(depth: float, age_seconds: float) -> None:
    QUEUE_DEPTH.set(depth)
    QUEUE_AGE.set(age_seconds)
