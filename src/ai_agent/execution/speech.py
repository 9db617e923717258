"""What a model says in a run: on its way to the log, and kept for the answer."""

import asyncio
import contextlib
import time

from ai_agent.domain.errors import AIAgentError, ServiceUnavailable
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.executions import ExecutionError, ExecutionStatus, Usage
from ai_agent.domain.fields import new_id
from ai_agent.execution.runs import LostClaim, Outcome, Runs
from ai_agent.execution.undisturbed import undisturbed
from ai_agent.storage.executions import Claim

JOIN_SECONDS = 0.04
JOIN_CHARACTERS = 1024


class Speech:
    """What the model says: the first piece is logged at once, what follows is joined for 40 ms or 1 KiB."""

    def __init__(self, runs: Runs, claim: Claim):
        self.message_id = new_id()
        self._runs = runs
        self._claim = claim
        self._spoken: list[str] = []
        self._logged = 0
        self._waiting: list[tuple[str, str]] = []
        self._last_flush = 0.0
        self._flushing = asyncio.Lock()
        self._late: asyncio.Task[None] | None = None

    async def say(self, kind: str, text: str) -> None:
        self._waiting.append((kind, text))
        if kind == "token":
            self._spoken.append(text)
        size = sum(len(piece) for _, piece in self._waiting)
        if size >= JOIN_CHARACTERS or time.monotonic() - self._last_flush >= JOIN_SECONDS:
            # While the database is away the model is listened to all the same, and nothing that it says is dropped.
            with contextlib.suppress(ServiceUnavailable):
                await self.flush()
        elif self._late is None or self._late.done():
            # A model that pauses must not keep its last words to itself.
            self._late = asyncio.create_task(self._flush_late())

    async def _flush_late(self) -> None:
        await asyncio.sleep(JOIN_SECONDS)
        # What goes wrong here leaves the pieces waiting: the next flush meets it where the run can end.
        with contextlib.suppress(LostClaim, AIAgentError):
            await self.flush()

    async def flush(self) -> None:
        async with self._flushing:
            if not self._waiting:
                return
            pieces = len(self._waiting)
            events, length = self._events(_joined(self._waiting))
            spoken = self._runs.speak(self._claim, events)
            _, cancelled = await undisturbed(spoken)
            del self._waiting[:pieces]
            self._logged = length
            self._last_flush = time.monotonic()
        if cancelled:
            raise asyncio.CancelledError

    def _events(self, pieces: list[tuple[str, str]]) -> tuple[list[NewEvent], int]:
        """The pieces as events, and how many characters have been said with them."""
        events: list[NewEvent] = []
        offset = self._logged
        for kind, text in pieces:
            if kind == "token":
                data = {"message_id": self.message_id, "offset": offset, "text": text}
                events.append(NewEvent.of(EventType.TOKEN, data))
                offset += len(text)
            else:
                data = {"message_id": self.message_id, "text": text}
                events.append(NewEvent.of(EventType.REASONING, data))
        return events, offset

    async def close(self) -> None:
        if self._late is not None:
            self._late.cancel()
            await asyncio.wait([self._late])

    def interrupted(self, status: ExecutionStatus, error: ExecutionError | None = None) -> Outcome:
        """The end of a run that was cut off: what was said is kept, its tokens are estimated."""
        content = "".join(self._spoken)
        return Outcome(
            status, content, Usage(output_tokens=len(content) // 4, estimated=True), error, {"partial": True}
        )

    def failed(self, error: AIAgentError) -> Outcome:
        retryable = bool((error.details or {}).get("is_retryable", False))
        return self.interrupted(
            ExecutionStatus.FAILED, ExecutionError(error.code, error.message, retryable, error.details)
        )


def _joined(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    joined: list[tuple[str, str]] = []
    for kind, text in pieces:
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + text)
        else:
            joined.append((kind, text))
    return joined
