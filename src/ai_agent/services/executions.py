"""Executions: start a run, wait for it, follow it, cancel it, do it again. The run itself belongs to the worker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from uuid import UUID

import msgspec

from ai_agent.domain.agents import Agent, AgentStatus, ModelConfig
from ai_agent.domain.errors import (
    AIAgentError,
    Conflict,
    FieldError,
    IdempotencyInProgress,
    InvalidFields,
    NotFound,
    ServiceUnavailable,
    SessionBusy,
)
from ai_agent.domain.event_data import QueuedData
from ai_agent.domain.events import EventType
from ai_agent.domain.executions import (
    FINAL,
    ExecuteAgent,
    Execution,
    ExecutionAnswer,
    ExecutionStatus,
    OnBusy,
)
from ai_agent.domain.fields import StoredJson, milliseconds, new_id, now, to_json
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.domain.identity import Principal
from ai_agent.domain.messages import CreateMessage
from ai_agent.domain.sessions import CreateSession, SessionStatus
from ai_agent.execution.job_queue import JobQueue
from ai_agent.execution.runs import Runs
from ai_agent.realtime.announcements import Announcements
from ai_agent.realtime.event_log import Position
from ai_agent.security.outbound import OutboundGuard
from ai_agent.services.agents import found as found_agent
from ai_agent.services.deliveries import check_callback
from ai_agent.services.execution_failures import failure
from ai_agent.services.execution_streams import ExecutionStreams, Reader
from ai_agent.services.idempotency import WAIT_SECONDS, claim
from ai_agent.services.messages import add_message
from ai_agent.services.sessions import new_session
from ai_agent.storage import agents, executions, messages, sessions
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.executions import Occupant, Order

MAX_WAITING = 100
"""Runs that may wait for one session."""


class ExecutionService:
    def __init__(
        self,
        database: Database,
        streams: ExecutionStreams,
        announcements: Announcements,
        queue: JobQueue,
        runs: Runs,
        guard: OutboundGuard,
    ):
        self._database = database
        self._guard = guard
        self._runs = runs
        self._streams = streams
        self._announce = announcements
        self._queue = queue
        self._guard = guard

    async def start(
        self,
        principal: Principal,
        agent_id: UUID,
        wanted: ExecuteAgent,
        correlation_id: str | None,
        key: IdempotencyKey | None = None,
    ) -> Execution:
        """Stores the message and the execution, and tells a worker; a repeat of `key` gets the first execution.

        Raises NotFound, InvalidFields, SessionBusy, and what `claim` of an idempotency key raises.
        """
        if wanted.agent_id is not None and wanted.agent_id != agent_id:
            raise InvalidFields([FieldError("agent_id", "Differs from the agent in the path", str(wanted.agent_id))])
        check_callback(self._guard, wanted.callback_url)
        owner, execution_id = principal.subject, new_id()
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            if key is not None and (first := await claim(rows, owner, key, execution_id)) is not None:
                return found(await executions.get(rows, owner, first.execution_id or execution_id))
            agent = found_agent(await agents.get(rows, owner, agent_id))
            config = _runnable(agent)
            session_id = wanted.session_id or await self._new_session(rows, owner)
            message = await add_message(rows, owner, session_id, CreateMessage(wanted.message))
            self._announce.message(rows, EventType.MESSAGE_CREATED, message)
            order = Order(
                owner,
                wanted.on_busy or config.on_busy or OnBusy.REJECT,
                wanted.timeout_seconds,
                correlation_id,
                wanted.callback_url,
            )
            execution = new_execution(execution_id, agent, session_id, message.id, to_json(wanted.metadata))
            await self._accept(rows, execution, order)
        return execution

    async def _accept(self, rows: Connection, execution: Execution, order: Order) -> None:
        """Queues the run, or lets it wait for its session, whose row the caller has locked. Raises SessionBusy."""
        others = await executions.occupants(rows, execution.session_id)
        _check_room(others, order.on_busy)
        await executions.insert(rows, execution, order, holds_session=not others)
        asked = execution.input_message_id
        assert asked is not None  # noqa: S101  # a new run has its message
        data = QueuedData(execution.id, execution.session_id, execution.agent_id, asked)
        self._announce.run(rows, execution, EventType.QUEUED, data)
        if not others:
            await self._announce.session_is(rows, execution.session_id, SessionStatus.ACTIVE)
            rows.after_commit(partial(self._queue.enqueue, execution.id))
        elif order.on_busy is not OnBusy.ENQUEUE:
            await agents.lock(rows, [execution.agent_id, *(run.agent_id for run in others)])
            await self._interrupt(rows, others, rolls_back=order.on_busy is OnBusy.ROLLBACK)
        await self._announce.agent_is(rows, execution.agent_id, AgentStatus.PROCESSING)

    async def _new_session(self, rows: Connection, owner: str) -> UUID:
        session = new_session(CreateSession())
        await sessions.insert(rows, owner, session)
        self._announce.session(rows, EventType.SESSION_CREATED, session)
        return session.id

    async def _interrupt(self, rows: Connection, others: Sequence[Occupant], *, rolls_back: bool) -> None:
        """Stops the live run, and those that were to take its place. Who waits in the queue stays there."""
        # The live one last: when it can be ended at once, its session goes to the newest.
        for run in sorted(others, key=lambda one: one.holds_session):
            if not run.holds_session and run.on_busy is OnBusy.ENQUEUE:
                continue
            await executions.request_cancel(rows, run.id, rolls_back=rolls_back)
            if not await self._runs.cancel_idle(rows, run.id):
                rows.after_commit(partial(self._queue.cancel, run.id))

    async def retry(
        self, principal: Principal, execution_id: UUID, correlation_id: str | None, key: IdempotencyKey | None = None
    ) -> Execution:
        """Runs the agent, as it is now, once more on the same message.

        Raises NotFound, SessionBusy, and Conflict for a run that has not failed, or whose agent or message is gone.
        """
        owner, retried = principal.subject, new_id()
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            if key is not None and (first := await claim(rows, owner, key, retried)) is not None:
                return found(await executions.get(rows, owner, first.execution_id or retried))
            before = found(await executions.get(rows, owner, execution_id))
            await sessions.lock(rows, owner, [before.session_id])
            agent, message = await _to_retry(rows, owner, before)
            asked = await executions.asked(rows, execution_id)
            order = Order(owner, OnBusy.REJECT, asked.timeout_seconds, correlation_id, asked.callback_url)
            execution = new_execution(retried, agent, before.session_id, message, before.metadata)
            await self._accept(rows, execution, order)
        return execution

    async def get(self, principal: Principal, execution_id: UUID) -> Execution:
        return found(await executions.get(self._database.reader, principal.subject, execution_id))

    async def answer(
        self, principal: Principal, execution_id: UUID, key: IdempotencyKey | None = None
    ) -> ExecutionAnswer | Execution:
        """Waits for the end; answers the execution when that waits for somebody.

        Raises the run's own error, with `details.execution_id`; ServiceUnavailable at a stop.

        A repeat waits for a second only: IdempotencyInProgress.
        """
        details = {"execution_id": str(execution_id)}
        try:
            async with asyncio.timeout(WAIT_SECONDS if key is not None and key.replayed else None):
                settled = await self._streams.ended(execution_id, or_waits=True)
        except TimeoutError:
            assert key is not None  # noqa: S101  # only a repeat has a time to wait
            key.replayed = False
            raise IdempotencyInProgress(details) from None
        if not settled:
            raise ServiceUnavailable("The server stops; the run goes on without it", details=details)
        execution = await self.get(principal, execution_id)
        if execution.status not in FINAL:
            return execution
        if execution.status is not ExecutionStatus.COMPLETED or execution.output_message_id is None:
            raise failure(execution)
        message = await messages.get(self._database.reader, principal.subject, execution.output_message_id)
        if message is None:
            raise NotFound("The answer was deleted", details={"execution_id": str(execution_id)})
        finished = execution.finished_at or execution.queued_at
        return ExecutionAnswer(
            execution_id=execution.id,
            session_id=execution.session_id,
            message_id=message.id,
            content=message.content,
            metadata=message.metadata,
            tool_calls=message.tool_calls,
            usage=execution.usage,
            execution_time_ms=milliseconds(execution.queued_at, finished),
        )

    async def cancel(self, principal: Principal, execution_id: UUID, key: IdempotencyKey | None = None) -> Execution:
        """Asks the run to stop, and waits up to a second for it. A run that has ended stays as it is."""
        owner, idle = principal.subject, False
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            if key is not None:
                await claim(rows, owner, key, execution_id)
            found(await executions.get(rows, owner, execution_id))
            await executions.lock(rows, execution_id)
            live = await executions.request_cancel(rows, execution_id) is not None
            if live:
                idle = await self._runs.cancel_idle(rows, execution_id)
        if live:
            await self._queue.cancel(execution_id)
        if live and not idle:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._streams.ended(execution_id)
        return await self.get(principal, execution_id)

    @contextlib.asynccontextmanager
    async def follow(
        self, principal: Principal, execution_id: UUID, since: Position, *, cancel_on_leave: bool
    ) -> AsyncIterator[Reader]:
        """Tells events in order until the end; with `cancel_on_leave` a reader that goes away stops the run."""
        async with self._streams.follow(execution_id, since) as reader:
            ours = False
            try:
                yield reader
            except AIAgentError:
                ours = True
                raise
            finally:
                # A stream that fails, or that a stop of the server ends, was not left by its client.
                if cancel_on_leave and not (reader.ended or ours or self._streams.draining):
                    await asyncio.shield(self.cancel(principal, execution_id))


def _check_room(others: Sequence[Occupant], on_busy: OnBusy) -> None:
    if not others:
        return
    live = next((str(run.id) for run in others if run.holds_session), None)
    if on_busy is OnBusy.REJECT:
        message = "The session has a live execution; wait for its end, cancel it, or say with on_busy what to do"
        raise SessionBusy(message, details={"execution_id": live})
    if len(others) > MAX_WAITING:
        raise SessionBusy(f"{MAX_WAITING} executions wait for the session already", details={"execution_id": live})


async def _to_retry(rows: Connection, owner: str, before: Execution) -> tuple[Agent, UUID]:
    """The agent and the message of a run that is to be done again. Raises Conflict."""
    if before.status not in {ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}:
        details = {"status": before.status}
        raise Conflict("Only an execution that failed or was cancelled can be retried", details=details)
    agent = await agents.get(rows, owner, before.agent_id)
    if agent is None:
        raise Conflict("The agent of the execution was deleted")
    _runnable(agent)
    asked = before.input_message_id
    if asked is None or await messages.get(rows, owner, asked) is None:
        raise Conflict("The message of the execution was deleted")
    return agent, asked


def _runnable(agent: Agent) -> ModelConfig:
    config = msgspec.json.decode(agent.model_config, type=ModelConfig)
    errors = []
    if config.provider is None:
        errors.append(FieldError("model_config.provider", "The agent has no provider"))
    if config.model is None:
        errors.append(FieldError("model_config.model", "The agent has no model"))
    if errors:
        raise InvalidFields(errors, "The agent cannot be executed: it has no model")
    return config


def new_execution(
    execution_id: UUID, agent: Agent, session_id: UUID, message_id: UUID, metadata: StoredJson
) -> Execution:
    return Execution(
        id=execution_id,
        agent_id=agent.id,
        agent_version=agent.version,
        session_id=session_id,
        status=ExecutionStatus.QUEUED,
        input_message_id=message_id,
        output_message_id=None,
        error=msgspec.Raw(b"null"),
        usage=msgspec.Raw(b"null"),
        attempt=1,
        queued_at=now(),
        started_at=None,
        first_token_at=None,
        finished_at=None,
        metadata=metadata,
    )


def found(execution: Execution | None) -> Execution:
    if execution is None:
        raise NotFound("Execution not found")
    return execution
