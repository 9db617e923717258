"""What a run in a worker tells of its calls."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from ai_agent.domain.events import NewEvent
from ai_agent.domain.fields import now
from ai_agent.domain.tool_calls import ToolCallStatus
from ai_agent.domain.tools import ToolKind
from ai_agent.execution import live_run
from ai_agent.execution.endings import LostClaim
from ai_agent.execution.live_run import LiveRun
from ai_agent.execution.run_state import CallRecord, Progress


class Log:
    """Keeps what is said, or refuses it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.lost = False

    async def speak(self, claim: Any, events: Sequence[NewEvent]) -> None:
        if self.lost:
            raise LostClaim
        self.said += [(str(event.type), event.data) for event in events]


def call(call_id: str) -> CallRecord:
    return CallRecord(call_id, 1, "copy", ToolKind.HTTP, {}, ToolCallStatus.RUNNING, now())


def test_progress_is_told_of_each_call_but_not_of_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    run = LiveRun(cast(Any, log), cast(Any, None), cast(Any, None))

    async def scenario() -> None:
        for part in range(50):
            await run.tool_progresses(call("a"), Progress(part, 50, "Copying"))
        await run.tool_progresses(call("b"), Progress(1))
        monkeypatch.setattr(live_run, "PROGRESS_SECONDS", 0.0)
        await run.tool_progresses(call("a"), Progress(50, 50))

    asyncio.run(scenario())
    told = [(kind, bytes(data)) for kind, data in log.said]
    assert told == [
        ("tool.progress", b'{"call_id":"a","name":"copy","progress":0,"total":50,"message":"Copying"}'),
        ("tool.progress", b'{"call_id":"b","name":"copy","progress":1,"total":null,"message":null}'),
        ("tool.progress", b'{"call_id":"a","name":"copy","progress":50,"total":50,"message":null}'),
    ]


def test_progress_of_a_run_that_was_lost_disturbs_nobody() -> None:
    log = Log()
    log.lost = True
    run = LiveRun(cast(Any, log), cast(Any, None), cast(Any, None))
    asyncio.run(run.tool_progresses(call("a"), Progress(1)))
    assert log.said == []
