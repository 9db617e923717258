"""A run in a worker: what the agent loop says and does, told to those who watch, and written down under the fence."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.event_data import ToolProgressData
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.fields import to_json
from ai_agent.domain.tool_calls import ToolCall, ToolCallStatus
from ai_agent.domain.tools import ToolKind
from ai_agent.execution.endings import LostClaim
from ai_agent.execution.patience import patiently
from ai_agent.execution.run_state import CallRecord, Progress, RunState
from ai_agent.execution.runs import Runs
from ai_agent.execution.speech import Speech
from ai_agent.storage.leases import Claim

_SAID = {
    ToolCallStatus.RUNNING,
    ToolCallStatus.COMPLETED,
    ToolCallStatus.FAILED,
    ToolCallStatus.INTERRUPTED,
}
"""What is told of a call by the run; of those that wait, `Runs` tells when the run waits."""
PROGRESS_SECONDS = 0.1
"""The shortest time between two that are told of a call."""

_ENDED = {ToolCallStatus.COMPLETED, ToolCallStatus.FAILED}


class LiveRun:
    def __init__(self, runs: Runs, claim: Claim, speech: Speech):
        self._runs = runs
        self._claim = claim
        self._speech = speech
        self._noting: asyncio.Task[None] | None = None
        self._progressed: dict[str, float] = {}
        self._told: set[tuple[str, ToolCallStatus]] = set()

    @property
    def first_token_at(self) -> datetime | None:
        return self._speech.first_at

    async def say(self, kind: str, text: str) -> None:
        await self._speech.say(kind, text)
        if self._noting is None and self.first_token_at is not None:
            # Behind the token, which shall not wait for it; when it fails, the end writes it down.
            self._noting = asyncio.create_task(self._note_first_token(self.first_token_at))

    async def _note_first_token(self, at: datetime) -> None:
        with contextlib.suppress(AIAgentError):
            await self._runs.note_first_token(self._claim, at)

    async def _noted(self) -> None:
        if self._noting is not None:
            await asyncio.wait([self._noting])

    async def close(self) -> None:
        await self._speech.close()
        await self._noted()

    async def step(self, step: int, steps: int) -> None:
        if step > 1:  # That the first one begins is known by the start.
            await patiently(self._speech.flush)
            event = NewEvent.of(EventType.PROGRESS, {"step": step, "steps": steps, "percent": None, "message": None})
            await patiently(partial(self._runs.speak, self._claim, [event]))

    async def save(self, state: RunState, calls: Sequence[CallRecord]) -> None:
        await patiently(self._speech.flush)
        await self._noted()
        # What a client answered was written down, and told, when it came.
        kept = [stored(call) for call in calls if call.kind is not ToolKind.CLIENT or call.status not in _ENDED]
        told = [call for call in kept if self._is_news(call)]
        await patiently(partial(self._runs.save, self._claim, state, kept, told))

    async def tool_progresses(self, call: CallRecord, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._progressed.get(call.call_id, -PROGRESS_SECONDS) < PROGRESS_SECONDS:
            return  # Some servers tell of each byte.
        self._progressed[call.call_id] = now
        data = ToolProgressData(call.call_id, call.name, progress.progress, progress.total, progress.message)
        # Whose run it is no longer, hears of it when the call has ended.
        with contextlib.suppress(AIAgentError, LostClaim):
            await self._runs.speak(self._claim, [NewEvent.of(EventType.TOOL_PROGRESS, data)])

    async def tool_ended(self, call: CallRecord) -> None:
        ended = stored(call)
        if call.kind is not ToolKind.CLIENT and self._is_news(ended):
            await patiently(partial(self._runs.keep_call, self._claim, ended))

    def _is_news(self, call: ToolCall) -> bool:
        if call.status not in _SAID or (call.call_id, call.status) in self._told:
            return False
        self._told.add((call.call_id, call.status))
        return True


def stored(call: CallRecord) -> ToolCall:
    return ToolCall(
        call_id=call.call_id,
        step=call.step,
        name=call.name,
        kind=call.kind,
        arguments=to_json(call.arguments),
        status=call.status,
        output=to_json(call.output),
        is_error=call.is_error,
        decision=None,
        reason=call.reason,
        duration_ms=call.duration_ms,
        expires_at=None,
        created_at=call.created_at,
        finished_at=call.finished_at,
    )
