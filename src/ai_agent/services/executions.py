"""Executions: start a run, wait for it, follow it, cancel it. The run itself belongs to the worker."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from uuid import UUID

import msgspec

from ai_agent.domain.agents import Agent, AgentStatus, ModelConfig
from ai_agent.domain.errors import (
    AIAgentError,
    FieldError,
    IdempotencyInProgress,
    InvalidFields,
    NotFound,
    ServiceUnavailable,
    SessionBusy,
)
from ai_agent.domain.events import TERMINAL, EventFrame, EventType
from ai_agent.domain.executions import (
    ExecuteAgent,
    Execution,
    ExecutionAnswer,
    ExecutionError,
    ExecutionStatus,
)
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.domain.identity import Principal
from ai_agent.domain.messages import CreateMessage
from ai_agent.domain.sessions import CreateSession, SessionStatus
from ai_agent.execution.job_queue import JobQueue
from ai_agent.execution.runs import Runs
from ai_agent.realtime.publisher import Publisher
from ai_agent.services.agents import found as found_agent
from ai_agent.services.execution_streams import ExecutionStreams
from ai_agent.services.idempotency import WAIT_SECONDS, claim
from ai_agent.services.messages import add_message
from ai_agent.services.sessions import new_session
from ai_agent.storage import agents, executions, messages, sessions
from ai_agent.storage.database import Connection, Database, UniqueViolation

_STATUS_OF = {
    "external_service_error": 502,
    "timeout_error": 504,
    "service_unavailable": 503,
    "circuit_breaker_open": 503,
    "limit_exceeded": 422,
    "max_steps_exceeded": 422,
    "max_total_tokens_exceeded": 422,
    "max_cost_exceeded": 422,
    "max_tool_calls_exceeded": 422,
    "price_unknown": 422,
    "validation_error": 422,
}


class ExecutionService:
    def __init__(
        self, database: Database, streams: ExecutionStreams, publisher: Publisher, queue: JobQueue, runs: Runs
    ):
        self._database = database
        self._runs = runs
        self._streams = streams
        self._publisher = publisher
        self._queue = queue

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
        owner, execution_id = principal.subject, new_id()
        try:
            async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
                if key is not None and (first := await claim(rows, owner, key, execution_id)) is not None:
                    return found(await executions.get(rows, owner, first.execution_id or execution_id))
                agent = found_agent(await agents.get(rows, owner, agent_id))
                _check_runnable(agent)
                execution = await self._accept(rows, owner, execution_id, agent, wanted, correlation_id)
        except UniqueViolation as error:
            raise SessionBusy("The session has a live execution; wait for its end or cancel it") from error
        await self._queue.enqueue(execution.id)
        return execution

    async def _accept(
        self,
        rows: Connection,
        owner: str,
        execution_id: UUID,
        agent: Agent,
        wanted: ExecuteAgent,
        correlation_id: str | None,
    ) -> Execution:
        session_id = wanted.session_id
        if session_id is None:
            session = new_session(CreateSession())
            await sessions.insert(rows, owner, session)
            session_id = session.id
        message = await add_message(rows, owner, session_id, CreateMessage(wanted.message))
        execution = _new_execution(execution_id, agent, session_id, message.id, wanted)
        await executions.insert(
            rows,
            owner,
            execution,
            epoch=secrets.token_hex(4),
            timeout=wanted.timeout_seconds,
            correlation_id=correlation_id,
        )
        await sessions.set_status(rows, session_id, SessionStatus.ACTIVE)
        await agents.set_status(rows, agent.id, AgentStatus.PROCESSING)
        data = {"agent_id": agent.id, "session_id": session_id, "input_message_id": message.id}
        await self._publisher.record(rows, f"execution:{execution.id}", (EventType.QUEUED, data))
        return execution

    async def get(self, principal: Principal, execution_id: UUID) -> Execution:
        return found(await executions.get(self._database.reader, principal.subject, execution_id))

    async def answer(
        self, principal: Principal, execution_id: UUID, key: IdempotencyKey | None = None
    ) -> ExecutionAnswer:
        """Waits for the end. Raises the run's own error, with `details.execution_id`; ServiceUnavailable at a stop.

        A repeat waits for a second only: IdempotencyInProgress.
        """
        details = {"execution_id": str(execution_id)}
        try:
            async with asyncio.timeout(WAIT_SECONDS if key is not None and key.replayed else None):
                ended = await self._streams.ended(execution_id)
        except TimeoutError:
            assert key is not None  # noqa: S101  # only a repeat has a time to wait
            key.replayed = False
            raise IdempotencyInProgress(details) from None
        if not ended:
            raise ServiceUnavailable("The server stops; the run goes on without it", details=details)
        execution = await self.get(principal, execution_id)
        if execution.status is not ExecutionStatus.COMPLETED or execution.output_message_id is None:
            raise _failure(execution)
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
            execution_time_ms=int((finished - execution.queued_at).total_seconds() * 1000),
        )

    async def cancel(self, principal: Principal, execution_id: UUID, key: IdempotencyKey | None = None) -> Execution:
        """Asks the run to stop, and waits up to a second for it. A run that has ended stays as it is."""
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            if key is not None:
                await claim(rows, principal.subject, key, execution_id)
            found(await executions.get(rows, principal.subject, execution_id))
            status = await executions.request_cancel(rows, principal.subject, execution_id)
        if status == ExecutionStatus.QUEUED:
            await self._runs.cancel_queued(execution_id)
        if status is not None:
            await self._queue.cancel(execution_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._streams.ended(execution_id)
        return await self.get(principal, execution_id)

    async def follow(
        self, principal: Principal, execution_id: UUID, after: int, *, cancel_on_leave: bool
    ) -> AsyncIterator[list[EventFrame]]:
        """Events in order until the end; with `cancel_on_leave` a reader that goes away stops the run."""
        ended = False
        try:
            async for events in self._streams.follow(execution_id, after):
                ended = bool(events) and events[-1].type in TERMINAL
                yield events
        finally:
            if cancel_on_leave and not ended:
                await asyncio.shield(self.cancel(principal, execution_id))


def _check_runnable(agent: Agent) -> None:
    config = msgspec.json.decode(agent.model_config, type=ModelConfig)
    errors = []
    if config.provider is None:
        errors.append(FieldError("model_config.provider", "The agent has no provider"))
    if config.model is None:
        errors.append(FieldError("model_config.model", "The agent has no model"))
    if errors:
        raise InvalidFields(errors, "The agent cannot be executed: it has no model")


def _new_execution(
    execution_id: UUID, agent: Agent, session_id: UUID, message_id: UUID, wanted: ExecuteAgent
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
        metadata=to_json(wanted.metadata),
    )


def _failure(execution: Execution) -> AIAgentError:
    details = {"execution_id": str(execution.id)}
    if execution.status is ExecutionStatus.CANCELLED:
        return AnsweredError(409, "conflict", "The execution was cancelled", details)
    error = msgspec.json.decode(execution.error, type=ExecutionError | None)
    if error is None:
        return AnsweredError(500, "internal_error", "The execution ended without an answer", details)
    status = _STATUS_OF.get(error.code, 500)
    if error.code == "external_service_error" and error.retryable:
        status = 503
    return AnsweredError(status, error.code, error.message, (error.details or {}) | details)


class AnsweredError(AIAgentError):
    """The error that ended a run, as the answer of the request that waited for it."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, str]):
        super().__init__(message, details=details, headers={"Retry-After": "5"} if status == 503 else None)
        self.status = status
        self.code = code


def found(execution: Execution | None) -> Execution:
    if execution is None:
        raise NotFound("Execution not found")
    return execution
