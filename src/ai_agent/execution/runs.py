"""The steps of a run in the database: begun, spoken, ended. Each is one transaction, fenced, with its events inside."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.agents import AgentContent, AgentStatus
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.executions import ExecutionError, ExecutionStatus, Usage
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.messages import HistoryEntry, Message, Role
from ai_agent.domain.sessions import SessionStatus
from ai_agent.realtime.event_log import EventLog, Fenced
from ai_agent.realtime.publisher import Publisher
from ai_agent.storage import agents, executions, messages, sessions
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.executions import Claim

_TERMINAL_EVENT = {
    ExecutionStatus.COMPLETED: EventType.COMPLETED,
    ExecutionStatus.FAILED: EventType.FAILED,
    ExecutionStatus.CANCELLED: EventType.CANCELLED,
}


class RunInput(msgspec.Struct, frozen=True):
    """What a run is made of: the agent at the run's version, and the branch of messages that ends with the new one."""

    agent: AgentContent | None
    branch: list[HistoryEntry]


class Outcome(msgspec.Struct, frozen=True):
    status: ExecutionStatus
    content: str
    usage: Usage
    error: ExecutionError | None = None
    metadata: dict[str, Any] = {}


class LostClaim(Exception):
    """Another worker has the run, or it is gone: this one stops and changes nothing."""


class Runs:
    def __init__(
        self, database: Database, log: EventLog, publisher: Publisher, *, lease_seconds: float, max_attempts: int
    ):
        self._database = database
        self._log = log
        self._publisher = publisher
        self._lease = lease_seconds
        self._max_attempts = max_attempts

    async def begin(self, execution_id: UUID) -> tuple[Claim, RunInput] | None:
        """Claims a queued run and tells readers. None when it is no longer queued."""
        async with self._database.unit_of_work() as rows:
            claim = await executions.claim(rows, execution_id, lease=self._lease, at=now())
            if claim is None:
                return None
            event = EventType.STARTED if claim.fence == 1 else EventType.RESTARTED
            data = {"attempt": claim.attempt}
            await self._publisher.record(rows, f"execution:{claim.id}", (event, data), fence=claim.fence)
            agent = await agents.at_version(rows, claim.owner_id, claim.agent_id, claim.agent_version)
            if agent is None:  # Written by a node of a release that kept no versions, or deleted.
                agent = await agents.content(rows, claim.owner_id, claim.agent_id)
            branch = await messages.branch(rows, claim.input_message_id)
        return claim, RunInput(agent, branch)

    async def speak(self, claim: Claim, events: Sequence[NewEvent]) -> None:
        """Logs tokens. Raises LostClaim when the run is no longer this worker's."""
        try:
            await self._publisher.tell(f"execution:{claim.id}", events, fence=claim.fence)
        except Fenced as error:
            raise LostClaim from error

    async def renew(self, claim: Claim) -> bool:
        """Keeps the lease; tells whether a cancel was asked for. Raises LostClaim."""
        async with self._database.unit_of_work() as rows:
            cancelled = await executions.renew(rows, claim, lease=self._lease)
        if cancelled is None:
            raise LostClaim
        return cancelled

    async def end(self, claim: Claim, message_id: UUID, outcome: Outcome) -> None:
        """The answer, the usage, the status and the terminal event, in one transaction. Raises LostClaim."""
        async with self._database.unit_of_work() as rows:
            # The session's row first, as in deleting it, so that the two never wait for each other.
            await sessions.set_status(rows, claim.session_id, SessionStatus.IDLE)
            output = await self._store_answer(rows, claim, message_id, outcome)
            ended = await executions.finish(
                rows,
                claim,
                status=outcome.status,
                output=output,
                error=to_json(outcome.error) if outcome.error else None,
                usage=to_json(outcome.usage),
                at=now(),
            )
            if not ended:
                raise LostClaim
            failed = outcome.status is ExecutionStatus.FAILED
            await agents.set_status(rows, claim.agent_id, AgentStatus.ERROR if failed else AgentStatus.COMPLETED)
            event = (_TERMINAL_EVENT[outcome.status], _terminal_data(claim, output, outcome))
            await self._publisher.record(rows, f"execution:{claim.id}", event, fence=claim.fence)

    async def _store_answer(self, rows: Connection, claim: Claim, message_id: UUID, outcome: Outcome) -> UUID | None:
        if not outcome.content and outcome.status is not ExecutionStatus.COMPLETED:
            return None
        at = now()
        position = await sessions.take_position(rows, claim.owner_id, claim.session_id, at)
        if position is None:
            raise LostClaim
        # Deleted meanwhile? Then the answer follows the newest message: what was said is kept in any case.
        parent = await messages.is_in_session(rows, claim.owner_id, claim.session_id, claim.input_message_id)
        answer = Message(
            id=message_id,
            session_id=claim.session_id,
            role=Role.ASSISTANT,
            content=outcome.content,
            metadata=to_json(outcome.metadata),
            tool_calls=msgspec.Raw(b"[]"),
            parent_message_id=claim.input_message_id if parent else None,
            agent_id=claim.agent_id,
            execution_id=claim.id,
            position=position,
            created_at=at,
            updated_at=at,
        )
        await messages.insert(rows, claim.owner_id, answer)
        return message_id

    async def cancel_queued(self, execution_id: UUID) -> None:
        """Ends a run that no worker has begun."""
        async with self._database.unit_of_work() as rows:
            claim = await executions.claim(rows, execution_id, lease=self._lease, at=None)
        if claim is not None:
            await self.end(claim, new_id(), Outcome(ExecutionStatus.CANCELLED, "", Usage()))

    async def recover(self) -> list[UUID]:
        """Takes runs from workers that went silent, and answers every run that waits for one."""
        lost = await executions.lost(self._database.reader)
        for claim in lost:
            await self._give_back(claim)
        return await executions.queued(self._database.reader)

    async def _give_back(self, claim: Claim) -> None:
        if claim.attempt < self._max_attempts:
            async with self._database.unit_of_work() as rows:
                await executions.release(rows, claim, lost=True)
            return
        error = ExecutionError("worker_lost", f"The run lost its worker {claim.attempt} times")
        try:
            await self.end(claim, new_id(), Outcome(ExecutionStatus.FAILED, "", Usage(estimated=True), error))
        except LostClaim:
            return

    async def release(self, claim: Claim) -> None:
        """Leaves a run that a shutdown interrupts to the next worker."""
        async with self._database.unit_of_work() as rows:
            await executions.release(rows, claim, lost=False)


def _terminal_data(claim: Claim, output: UUID | None, outcome: Outcome) -> dict[str, Any]:
    if outcome.error is not None:
        return {"code": outcome.error.code, "message": outcome.error.message, "retryable": outcome.error.retryable}
    elapsed = int((now() - claim.queued_at).total_seconds() * 1000)
    return {"message_id": output, "usage": outcome.usage, "execution_time_ms": elapsed}
