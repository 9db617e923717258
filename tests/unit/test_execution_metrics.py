"""What Prometheus is told of runs."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.executions import ExecutionStatus, Usage
from ai_agent.observability import execution_metrics
from ai_agent.services import execution_queue
from ai_agent.storage.execution_history import Ready

AT = datetime(2026, 1, 1, tzinfo=UTC)


def told(name: str, **labels: str) -> float:
    value = REGISTRY.get_sample_value(f"ai_agent_{name}", labels)
    return 0.0 if value is None else value


FAMILIES: dict[str, dict[str, str]] = {
    "executions_total": {"status": "failed"},
    "execution_duration_seconds_sum": {"status": "failed"},
    "execution_time_to_first_token_seconds_sum": {},
    "execution_time_to_first_token_seconds_count": {},
    "execution_tokens_total": {"kind": "input"},
    "execution_tool_calls_total": {},
}


def ended(first_token_at: datetime | None) -> list[float]:
    """What a run has added to each family."""
    before = [told(name, **labels) for name, labels in FAMILIES.items()]
    execution_metrics.ended(
        ExecutionStatus.FAILED,
        Usage(input_tokens=7, output_tokens=3),
        queued_at=AT,
        first_token_at=first_token_at,
        finished_at=AT + timedelta(seconds=4),
        tool_calls=2,
    )
    return [told(name, **labels) - was for (name, labels), was in zip(FAMILIES.items(), before, strict=True)]


def test_a_run_that_ended_is_counted_with_its_times_tokens_and_tools() -> None:
    assert ended(AT + timedelta(seconds=1)) == [1, 4, 1, 1, 7, 2]


def test_a_run_in_which_the_model_said_nothing_has_no_first_token() -> None:
    assert ended(None) == [1, 4, 0, 0, 7, 2]


class Reader:
    """Answers what it is given, or raises it."""

    def __init__(self, *answers: Any):
        self.answers = list(answers)

    async def first(self, _: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def looked(monkeypatch: pytest.MonkeyPatch, reader: Reader, *, seconds: float) -> list[float]:
    """The depth after each of two looks."""
    monkeypatch.setattr(execution_queue, "GOOD_FOR_SECONDS", seconds)
    database: Any = SimpleNamespace(reader=reader)

    async def look() -> list[float]:
        queue, seen = execution_queue.ExecutionQueue(database), []
        for _ in range(2):
            await queue.look()
            seen.append(told("execution_queue_depth"))
        return seen

    return asyncio.run(look())


def test_the_queue_is_looked_at_no_more_often_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(Ready(3, AT), Ready(0, None))
    assert looked(monkeypatch, reader, seconds=60) == [3, 3]
    assert told("execution_queue_age_seconds") > 60
    assert len(reader.answers) == 1


def test_what_is_not_known_of_the_queue_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    depths = looked(monkeypatch, Reader(ServiceUnavailable("away"), Ready(0, None)), seconds=0)
    assert math.isnan(depths[0])
    assert depths[1] == told("execution_queue_age_seconds") == 0
