"""The worker: claims what the queue names, runs it, and writes down what happened whatever happens."""

import asyncio
import gc
import os
import secrets
import socket
import time
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.agents import ModelConfig
from ai_agent.domain.errors import AIAgentError, OperationTimeout, ServiceUnavailable
from ai_agent.domain.executions import ExecutionError, ExecutionStatus
from ai_agent.execution.endings import LostClaim, Outcome
from ai_agent.execution.heart import Heart
from ai_agent.execution.job_queue import JobQueue
from ai_agent.execution.live_run import LiveRun
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.patience import patiently
from ai_agent.execution.run_state import Finished, RunState, Waiting
from ai_agent.execution.runs import Begun, Runs, partial_outcome
from ai_agent.execution.speech import Speech
from ai_agent.execution.tools import Toolbox
from ai_agent.execution.undisturbed import undisturbed
from ai_agent.observability import tracing
from ai_agent.settings import Settings

if TYPE_CHECKING:
    from ai_agent.execution.run_state import RunAgent

log = structlog.get_logger()


class Worker:
    def __init__(self, settings: Settings, runs: Runs, queue: JobQueue, models: ModelAccess, toolbox: Toolbox):
        self._settings = settings
        self._runs = runs
        self._queue = queue
        self._models = models
        self._toolbox = toolbox
        self._name = f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._heart = Heart(runs, self._name, settings.execution_heartbeat_seconds)
        self._sweeper: asyncio.Task[None] | None = None
        self._live: dict[UUID, asyncio.Task[None]] = {}
        self._stopped: dict[UUID, str] = {}
        self._drain_end: float | None = None

    async def start(self) -> None:
        self._heart.start()
        await self._queue.work(self.run)
        self._sweeper = asyncio.create_task(self._sweep())

    def drain(self) -> None:
        """Begins no more runs: what is queued stays in its rows, for another worker. Live ones get the window."""
        if self._drain_end is None:
            self._drain_end = time.monotonic() + self._settings.drain_window_seconds

    def grace(self) -> float:
        """Seconds that are left of the window."""
        return self._settings.drain_window_seconds if (end := self._drain_end) is None else end - time.monotonic()

    async def close(self) -> None:
        """Waits for live runs to the end of the window; what is left goes back to the queue's rows."""
        self.drain()
        await cancel_and_wait(self._sweeper)
        if live := list(self._live.values()):
            await asyncio.wait(live, timeout=max(0.0, self.grace()))
        for execution_id in list(self._live):
            self._stop(execution_id, "stopping")
        await cancel_and_wait(*self._live.values())
        await self._queue.close()
        await self._heart.close()

    async def _sweep(self) -> None:
        while self._drain_end is None:
            try:
                for execution_id in await self._runs.recover():
                    await self._queue.enqueue(execution_id)
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(self._settings.execution_sweep_seconds)

    async def run(self, execution_id: UUID) -> None:
        """A job of the queue: runs one execution to its end, or to where it has to wait.

        A job that the queue takes back only lets us look at the row, which says what becomes of the run.
        """
        if self._drain_end is not None:
            return
        task = self._live.get(execution_id)
        if task is None:
            task = self._live[execution_id] = asyncio.create_task(self._run(execution_id))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._heart.nudge()
            raise

    async def _run(self, execution_id: UUID) -> None:
        """Nothing it meets escapes: the row tells of it."""
        structlog.contextvars.bind_contextvars(execution_id=str(execution_id))
        try:
            begun, cancelled = await undisturbed(self._runs.begin(execution_id, self._name))
            if begun is not None and cancelled:  # Nobody else stops it before its heart beats: the process ends.
                await self._runs.release(begun.claim)
            elif begun is not None:
                claim = begun.claim
                whose = {"correlation_id": claim.correlation_id, "principal": claim.owner_id}
                structlog.contextvars.bind_contextvars(**whose)  # For this task, which is the run's own.
                with _run_span(begun) as current:
                    await self._attempt(begun, current)
        except asyncio.CancelledError:
            log.info("run_left_to_the_sweeper")
        except LostClaim:
            log.warning("lease_lost")
        except ServiceUnavailable:
            log.warning("run_left_to_the_sweeper", exc_info=True)
        except Exception:
            log.exception("run_crashed")
        finally:
            self._live.pop(execution_id, None)
            self._stopped.pop(execution_id, None)

    def _stop(self, execution_id: UUID, why: str) -> None:
        task = self._live.get(execution_id)
        if task is not None and execution_id not in self._stopped:
            self._stopped[execution_id] = why
            task.cancel()

    async def _attempt(self, begun: Begun, current: Any) -> None:
        claim = begun.claim
        speech = Speech(partial(self._runs.speak, claim), begun.state.message_id, begun.state.content)
        run = LiveRun(self._runs, claim, speech)
        self._heart.hold(claim, partial(self._stop, claim.id))
        try:
            ended = await self._ended(begun, run)
            _tell_end(current, ended)
            # A late cancel does not disturb the end, and a lost lease shows in it.
            await undisturbed(self._finish(begun, run, speech, ended))
        except asyncio.CancelledError:
            await undisturbed(self._stopped_run(begun, run, speech))
        finally:
            self._heart.let_go(claim)
            await run.close()

    async def _ended(self, begun: Begun, run: LiveRun) -> Outcome | Waiting:
        """How the run ends, or what it waits for."""
        if begun.claim.cancel_requested:
            return partial_outcome(begun.state, ExecutionStatus.CANCELLED)
        limit = begun.claim.timeout_seconds or _own_limit(begun) or self._settings.execution_timeout
        try:
            async with asyncio.timeout(limit):
                result = await self._run_agent(begun, run)
        except TimeoutError:
            return _failed(begun, OperationTimeout(f"The run took longer than {limit:g} s", timeout_duration=limit))
        except AIAgentError as error:
            return _failed(begun, error)
        except LostClaim:
            raise
        except Exception:
            log.exception("run_crashed")
            return _failed(begun, AIAgentError("The run failed inside the server"))
        return result if isinstance(result, Waiting) else _completed(result.state)

    async def _run_agent(self, begun: Begun, run: LiveRun) -> Finished | Waiting:
        loop = _agent_loop() if _agent_loop.cache_info().currsize else await asyncio.to_thread(_agent_loop)
        where = begun.given, begun.state, begun.answers, begun.interrupted
        return await loop(*where, self._models, self._toolbox, run)

    async def _stopped_run(self, begun: Begun, run: LiveRun, speech: Speech) -> None:
        why = self._stopped.get(begun.claim.id)
        if why == "lost":
            raise LostClaim
        if why == "cancelled":
            await self._finish(begun, run, speech, partial_outcome(begun.state, ExecutionStatus.CANCELLED))
        else:
            await patiently(partial(self._runs.release, begun.claim))

    async def _finish(self, begun: Begun, run: LiveRun, speech: Speech, ended: Outcome | Waiting) -> None:
        """Writes down the last words and the end. A database that is away for a while is waited for."""

        async def finish() -> None:
            await speech.flush()
            await self._write_end(begun, run, ended)

        await patiently(finish)

    async def _write_end(self, begun: Begun, run: LiveRun, ended: Outcome | Waiting) -> None:
        if isinstance(ended, Waiting):
            stopped = partial_outcome(ended.state, ExecutionStatus.CANCELLED)
            if await self._runs.wait(begun.claim, ended.state, stopped):
                log.info("run_waits", calls=len(ended.pending))
            return
        outcome = msgspec.structs.replace(ended, first_token_at=run.first_token_at)
        await self._runs.end(begun.claim, outcome)
        log.info("run_ended", status=outcome.status, code=outcome.error.code if outcome.error else None)


def _run_span(begun: Begun) -> AbstractContextManager[Any]:
    claim, agent = begun.claim, begun.given.agent
    name = agent.name if agent else None
    about = {"gen_ai.agent.id": str(claim.agent_id), "gen_ai.agent.name": name, "ai_agent.attempt": claim.attempt}
    about |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": str(claim.session_id)}
    return tracing.span(f"invoke_agent {name}" if name else "invoke_agent", about)


def _tell_end(current: Any, ended: Outcome | Waiting) -> None:
    status = "waiting" if isinstance(ended, Waiting) else ended.status.value
    tracing.told(current, {"ai_agent.execution.status": status})
    if not isinstance(ended, Waiting) and ended.error is not None:
        tracing.failed(current, ended.error.code)


def _own_limit(begun: Begun) -> float | None:
    """Seconds that the agent gives its runs."""
    agent = begun.given.agent
    return msgspec.json.decode(agent.model_config, type=ModelConfig).timeout_seconds if agent else None


def _completed(state: RunState) -> Outcome:
    metadata: dict[str, object] = {"context_truncated": True} if state.context_truncated else {}
    if state.unavailable_tools:
        metadata["unavailable_tools"] = state.unavailable_tools
    return Outcome(ExecutionStatus.COMPLETED, state.message_id, state.content, state.usage, metadata=metadata)


def _failed(begun: Begun, error: AIAgentError) -> Outcome:
    retryable = bool((error.details or {}).get("is_retryable", False))
    told = ExecutionError(error.code, error.message, retryable, error.details)
    return partial_outcome(begun.state, ExecutionStatus.FAILED, told)


@cache
def _agent_loop() -> "RunAgent":
    """Imports the agent library: it costs seconds and 80 MiB, which only a process that runs agents pays, once."""
    from ai_agent.execution.agent_loop import run_agent

    gc.freeze()  # As at the start: what it made stays, and no request shall wait while the collector looks at it.
    return run_agent
