"""The end of a run: the answer, the usage, the status, the event, and whose turn is next, in one transaction."""

from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.agents import AgentStatus
from ai_agent.domain.events import EventType, terminal
from ai_agent.domain.executions import ExecutionError, ExecutionStatus, Usage
from ai_agent.domain.fields import StoredJson, milliseconds, now, to_json
from ai_agent.domain.messages import Message, Role
from ai_agent.domain.sessions import SessionStatus
from ai_agent.domain.tool_calls import ENDED, ToolCall, ToolCallStatus
from ai_agent.execution.job_queue import JobQueue
from ai_agent.execution.webhooks import Webhooks
from ai_agent.observability import execution_metrics
from ai_agent.realtime.announcements import Announcements
from ai_agent.storage import leases, messages, sessions, tool_calls
from ai_agent.storage.database import Connection
from ai_agent.storage.leases import Claim, Figures


class LostClaim(Exception):
    """Another worker has the run, or it is gone: this one stops and changes nothing."""


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended, and all that it said."""

    status: ExecutionStatus
    message_id: UUID
    content: str
    usage: Usage
    error: ExecutionError | None = None
    metadata: dict[str, Any] = {}
    first_token_at: datetime | None = None


class Endings:
    def __init__(self, announcements: Announcements, queue: JobQueue, webhooks: Webhooks):
        self._announce = announcements
        self._queue = queue
        self._webhooks = webhooks

    async def end(self, rows: Connection, claim: Claim, outcome: Outcome) -> None:
        """Raises LostClaim when the run is not the claim's any more; the caller's transaction is then undone."""
        # The session's row first, as in deleting it, so that the two never wait for each other.
        await sessions.lock(rows, claim.owner_id, [claim.session_id])
        current = await leases.mine(rows, claim)
        if current is None:
            raise LostClaim
        calls = await _close_calls(rows, claim)
        shown = [{"id": c.call_id, "name": c.name, "arguments": c.arguments, "status": c.status} for c in calls]
        question, answer = await self._settle_messages(rows, current, outcome, to_json(shown))
        at = now()
        first = current.first_token_at or outcome.first_token_at
        ended = await leases.finish(
            rows,
            current,
            status=outcome.status,
            input_message_id=question,
            output_message_id=answer,
            error=to_json(outcome.error) if outcome.error else None,
            usage=to_json(outcome.usage),
            figures=_figures(current, outcome.usage, first, at, len(calls)),
            first_token_at=first,
            at=at,
        )
        if not ended:
            raise LostClaim
        await self._tell(rows, current, outcome, answer, at)
        rows.after_commit(partial(_count, current, outcome, first, at, len(calls)))
        await self._hand_over(rows, current, answer or question)

    async def _settle_messages(
        self, rows: Connection, claim: Claim, outcome: Outcome, calls: StoredJson
    ) -> tuple[UUID | None, UUID | None]:
        """Stores the answer, or removes the question where the run is rolled back; both as they are now."""
        asked = claim.input_message_id
        question = await messages.get(rows, claim.owner_id, asked) if asked else None
        if claim.rolls_back and outcome.status is ExecutionStatus.CANCELLED:
            if question is not None:
                await sessions.forget_message(rows, claim.owner_id, claim.session_id, now())
                await messages.delete(rows, claim.owner_id, question)
                self._announce.message_deleted(rows, question)
            return None, None
        if not outcome.content and outcome.status is not ExecutionStatus.COMPLETED:
            return claim.input_message_id, None
        answer = await _store_answer(rows, claim, question, outcome, calls)
        self._announce.message(rows, EventType.MESSAGE_CREATED, answer)
        return claim.input_message_id, answer.id

    async def _tell(self, rows: Connection, claim: Claim, outcome: Outcome, answer: UUID | None, at: datetime) -> None:
        elapsed, run = milliseconds(claim.queued_at, at), (claim.id, claim.session_id, claim.agent_id)
        kind, data = terminal(run, outcome.status, answer, outcome.usage, outcome.error, elapsed)
        self._announce.ended(rows, claim, kind, data, fence=claim.fence)
        failed = outcome.status is ExecutionStatus.FAILED
        await self._announce.agent_is(rows, claim.agent_id, AgentStatus.ERROR if failed else AgentStatus.COMPLETED)
        await self._webhooks.announce(rows, claim.owner_id, claim.id, claim.callback_url)

    async def _hand_over(self, rows: Connection, claim: Claim, tip: UUID | None) -> None:
        """Gives the session to the run that waits for it, whose message follows what was said last."""
        following = await leases.promote(rows, claim.session_id) if claim.holds_session else None
        if following is None:
            if claim.holds_session:
                await self._announce.session_is(rows, claim.session_id, SessionStatus.IDLE)
            return
        await self._announce.session_is(rows, claim.session_id, SessionStatus.ACTIVE)
        if following.input_message_id is not None:
            place = await sessions.take_place(rows, claim.session_id)
            placed = await messages.place(rows, following.input_message_id, place, tip)
            if placed is not None:
                self._announce.message(rows, EventType.MESSAGE_UPDATED, placed)
        rows.after_commit(partial(self._queue.enqueue, following.id))


async def _close_calls(rows: Connection, claim: Claim) -> list[ToolCall]:
    """The calls of the run; nobody can answer those any more that are open."""
    calls = await tool_calls.of_run(rows, claim.id)
    for call in calls:
        if call.status not in ENDED:
            call.status, call.finished_at = ToolCallStatus.INTERRUPTED, now()
            await tool_calls.keep(rows, claim.id, call)
    return calls


async def _count(claim: Claim, outcome: Outcome, first: datetime | None, at: datetime, calls: int) -> None:
    execution_metrics.ended(
        outcome.status,
        outcome.usage,
        queued_at=claim.queued_at,
        first_token_at=first,
        finished_at=at,
        tool_calls=calls,
    )


async def _store_answer(
    rows: Connection, claim: Claim, question: Message | None, outcome: Outcome, calls: StoredJson
) -> Message:
    at = now()
    position = await sessions.take_position(rows, claim.owner_id, claim.session_id, at)
    if position is None:
        raise LostClaim
    answer = Message(
        id=outcome.message_id,
        session_id=claim.session_id,
        role=Role.ASSISTANT,
        content=outcome.content,
        metadata=to_json(outcome.metadata),
        tool_calls=calls,
        # Deleted meanwhile? Then the answer follows the newest message: what was said is kept in any case.
        parent_message_id=question.id if question is not None else None,
        agent_id=claim.agent_id,
        execution_id=claim.id,
        position=position,
        created_at=at,
        updated_at=at,
    )
    return await messages.insert(rows, claim.owner_id, answer)


def _figures(claim: Claim, usage: Usage, first: datetime | None, at: datetime, calls: int) -> Figures:
    return Figures(
        latency_ms=milliseconds(claim.queued_at, at),
        first_token_ms=None if first is None else milliseconds(claim.queued_at, first),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=usage.cost,
        tool_call_count=calls,
    )
