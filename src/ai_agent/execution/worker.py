"""The worker: claims what the queue names, runs it, and writes down what happened whatever happens."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Coroutine
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from ai_agent.domain.errors import AIAgentError, OperationTimeout
from ai_agent.domain.events import EventType
from ai_agent.domain.executions import ExecutionError, ExecutionStatus, Usage
from ai_agent.domain.fields import new_id
from ai_agent.execution.job_queue import JobQueue
from ai_agent.execution.local_model import LocalModel
from ai_agent.execution.runs import LostClaim, Outcome, RunInput, Runs
from ai_agent.settings import Settings
from ai_agent.storage.executions import Claim

if TYPE_CHECKING:
    from ai_agent.execution.agent_loop import RunBranch, RunResult

JOIN_SECONDS = 0.04
JOIN_CHARACTERS = 1024

log = structlog.get_logger()


class Worker:
    def __init__(self, settings: Settings, runs: Runs, queue: JobQueue, local_model: LocalModel):
        self._settings = settings
        self._runs = runs
        self._queue = queue
        self._local_model = local_model
        self._sweeper: asyncio.Task[None] | None = None
        self._live: set[UUID] = set()
        self._stopping = False

    async def start(self) -> None:
        await self._queue.work(self.run)
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Gives live runs the drain window to end; what is left goes back to the queue's rows."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        deadline = time.monotonic() + self._settings.drain_window_seconds
        while self._live and time.monotonic() < deadline:  # noqa: ASYNC110  # once, at the end of a process
            await asyncio.sleep(0.05)
        self._stopping = True
        await self._queue.close()

    async def _sweep(self) -> None:
        while True:
            try:
                for execution_id in await self._runs.recover():
                    await self._queue.enqueue(execution_id)
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(self._settings.execution_sweep_seconds)

    async def run(self, execution_id: UUID) -> None:
        """Runs one execution to its end. Nothing it meets escapes: the row tells of it."""
        begun = await self._runs.begin(execution_id)
        if begun is None:
            return
        claim, given = begun
        self._live.add(execution_id)
        with structlog.contextvars.bound_contextvars(execution_id=str(claim.id), correlation_id=claim.correlation_id):
            try:
                await self._attempt(claim, given)
            except LostClaim:
                log.warning("lease_lost", attempt=claim.attempt)
            finally:
                self._live.discard(execution_id)

    async def _attempt(self, claim: Claim, given: RunInput) -> None:
        speech = Speech(self._runs, claim)
        heart = asyncio.create_task(self._heartbeat(claim, asyncio.current_task()))
        try:
            outcome = await self._outcome(claim, given, speech)
        except asyncio.CancelledError:
            if self._stopping:
                await self._runs.release(claim)
                raise
            outcome = speech.interrupted(ExecutionStatus.CANCELLED)
        finally:
            heart.cancel()
            await speech.close()
        await _undisturbed(self._runs.end(claim, speech.message_id, outcome))

    async def _outcome(self, claim: Claim, given: RunInput, speech: "Speech") -> Outcome:
        limit = claim.timeout_seconds or self._settings.execution_timeout
        try:
            async with asyncio.timeout(limit):
                result = await self._call_model(given, speech)
                await speech.flush()
        except TimeoutError:
            return speech.failed(OperationTimeout(f"The run took longer than {limit:g} s", timeout_duration=limit))
        except AIAgentError as error:
            return speech.failed(error)
        except LostClaim:
            raise
        except Exception:
            log.exception("run_crashed")
            return speech.failed(AIAgentError("The run failed inside the server"))
        metadata = {"context_truncated": True} if result.context_truncated else {}
        return Outcome(ExecutionStatus.COMPLETED, result.content, result.usage, metadata=metadata)

    async def _call_model(self, given: RunInput, speech: "Speech") -> "RunResult":
        run_branch = await asyncio.to_thread(_agent_loop)
        return await run_branch(given.agent, given.branch, self._settings, self._local_model, speech.say)

    async def _heartbeat(self, claim: Claim, run: "asyncio.Task[Any] | None") -> None:
        """Keeps the lease; stops the run when it is lost or cancelled. A database that is away is tried again."""
        while run is not None:
            await asyncio.sleep(self._settings.execution_heartbeat_seconds)
            try:
                if await self._runs.renew(claim):
                    run.cancel()
            except LostClaim:
                run.cancel()
                return
            except AIAgentError:
                log.warning("heartbeat_failed")


async def _undisturbed(work: Coroutine[Any, Any, None]) -> None:
    """Brings work to its end although its task is cancelled meanwhile: by a second cancel, when the run has ended."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()


@cache
def _agent_loop() -> "RunBranch":
    """Imports the agent library: it costs seconds and 80 MiB, which only a process that runs agents pays, once."""
    from ai_agent.execution.agent_loop import run_branch

    gc.freeze()  # As at the start: what it made stays, and no request shall wait while the collector looks at it.
    return run_branch


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
            await self._runs.speak(self._claim, events, first=not self._last_flush)
            del self._waiting[:pieces]
            self._logged = length
            self._last_flush = time.monotonic()

    def _events(self, pieces: list[tuple[str, str]]) -> tuple[list[tuple[EventType, Any]], int]:
        """The pieces as events, and how many characters have been said with them."""
        events: list[tuple[EventType, Any]] = []
        offset = self._logged
        for kind, text in pieces:
            if kind == "token":
                data = {"message_id": self.message_id, "offset": offset, "text": text}
                events.append((EventType.TOKEN, data))
                offset += len(text)
            else:
                events.append((EventType.REASONING, {"message_id": self.message_id, "text": text}))
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
