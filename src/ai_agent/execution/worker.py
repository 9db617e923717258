"""The worker: claims what the queue names, runs it, and writes down what happened whatever happens."""

import asyncio
import gc
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from ai_agent.domain.errors import AIAgentError, OperationTimeout, ServiceUnavailable
from ai_agent.domain.executions import ExecutionStatus
from ai_agent.execution import run_state
from ai_agent.execution.job_queue import JobQueue
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.run_state import CallRecord, RunState
from ai_agent.execution.runs import LostClaim, Outcome, RunInput, Runs
from ai_agent.execution.speech import Speech
from ai_agent.execution.undisturbed import undisturbed
from ai_agent.settings import Settings
from ai_agent.storage.executions import Claim

if TYPE_CHECKING:
    from ai_agent.execution.run_state import RunAgent

PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 0.5

log = structlog.get_logger()


class Worker:
    def __init__(self, settings: Settings, runs: Runs, queue: JobQueue, models: ModelAccess):
        self._settings = settings
        self._runs = runs
        self._queue = queue
        self._models = models
        self._sweeper: asyncio.Task[None] | None = None
        self._live: set[UUID] = set()
        self._drain_end: float | None = None
        self._stopping = False

    async def start(self) -> None:
        await self._queue.work(self.run)
        self._sweeper = asyncio.create_task(self._sweep())

    def drain(self) -> None:
        """Begins no more runs: what is queued stays in its rows, for another worker. Live ones get the window."""
        if self._drain_end is None:
            self._drain_end = time.monotonic() + self._settings.drain_window_seconds

    async def close(self) -> None:
        """Waits for live runs to the end of the window; what is left goes back to the queue's rows."""
        self.drain()
        assert self._drain_end is not None  # noqa: S101  # set by drain()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        while self._live and time.monotonic() < self._drain_end:  # noqa: ASYNC110  # once, at the end of a process
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
        if self._drain_end is not None:
            return
        begun, cancelled = await undisturbed(self._runs.begin(execution_id))
        if begun is None:
            return
        claim, given = begun
        self._live.add(execution_id)
        with structlog.contextvars.bound_contextvars(execution_id=str(claim.id), correlation_id=claim.correlation_id):
            try:
                await self._attempt(claim, given, cancelled=cancelled or claim.cancel_requested)
            except LostClaim:
                log.warning("lease_lost", attempt=claim.attempt)
            finally:
                self._live.discard(execution_id)

    async def _attempt(self, claim: Claim, given: RunInput, *, cancelled: bool) -> None:
        speech = Speech(self._runs, claim)
        heart = asyncio.create_task(self._heartbeat(claim, asyncio.current_task()))
        try:
            outcome = speech.interrupted(ExecutionStatus.CANCELLED)
            if not cancelled:
                outcome = await self._outcome(claim, given, speech)
            await undisturbed(self._finish(claim, speech, outcome))
        except asyncio.CancelledError:
            if self._stopping:
                await undisturbed(self._runs.release(claim))
                raise
            await undisturbed(self._finish(claim, speech, speech.interrupted(ExecutionStatus.CANCELLED)))
        finally:
            heart.cancel()
            await speech.close()

    async def _finish(self, claim: Claim, speech: Speech, outcome: Outcome) -> None:
        """Writes down the last words and the end. A database that is away for a while is waited for."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                await speech.flush()
                await self._runs.end(claim, speech.message_id, outcome)
                break
            except ServiceUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
        log.info("run_ended", status=outcome.status, code=outcome.error.code if outcome.error else None)

    async def _outcome(self, claim: Claim, given: RunInput, speech: Speech) -> Outcome:
        limit = claim.timeout_seconds or self._settings.execution_timeout
        try:
            async with asyncio.timeout(limit):
                result = await self._call_model(given, speech)
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

    async def _call_model(self, given: RunInput, speech: Speech) -> RunState:
        run_agent = _agent_loop() if _agent_loop.cache_info().currsize else await asyncio.to_thread(_agent_loop)
        state = RunState(speech.message_id)
        whole = run_state.RunInput(given.agent, given.branch, "")
        await run_agent(whole, state, [], frozenset(), self._models, _Unsaved(speech))
        return state

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


class _Unsaved:
    def __init__(self, speech: Speech):
        self.say = speech.say

    async def step(self, step: int, steps: int) -> None: ...

    async def save(self, state: RunState, calls: Sequence[CallRecord]) -> None: ...

    async def tool_started(self, call: CallRecord) -> None: ...

    async def tool_ended(self, call: CallRecord) -> None: ...


@cache
def _agent_loop() -> "RunAgent":
    """Imports the agent library: it costs seconds and 80 MiB, which only a process that runs agents pays, once."""
    from ai_agent.execution.agent_loop import run_agent

    gc.freeze()  # As at the start: what it made stays, and no request shall wait while the collector looks at it.
    return run_agent
