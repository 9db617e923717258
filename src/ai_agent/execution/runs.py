"""The steps of a run in the database: begun, saved, waiting, ended. Each is one transaction, fenced, with events."""

import contextlib
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import structlog

from ai_agent.domain.agents import AgentStatus
from ai_agent.domain.channels import execution_channel
from ai_agent.domain.event_data import SnapshotData, StartedData, bounded
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.executions import ExecutionError, ExecutionStatus
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.sessions import SessionStatus
from ai_agent.domain.tool_calls import ToolCall, ToolCallStatus
from ai_agent.domain.tools import ToolKind
from ai_agent.execution.call_events import answer_of, call_event
from ai_agent.execution.endings import Endings, LostClaim, Outcome
from ai_agent.execution.job_queue import JobQueue
from ai_agent.execution.run_state import Answered, RunInput, RunState
from ai_agent.execution.webhooks import Webhooks
from ai_agent.realtime.announcements import Announcements
from ai_agent.realtime.event_log import Fenced
from ai_agent.realtime.publisher import Event, Publisher
from ai_agent.settings import Settings
from ai_agent.storage import agents, executions, leases, messages, sessions, tool_calls, tools
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.executions import Located
from ai_agent.storage.leases import Claim, Held

SWEPT_AT_ONCE = 200

log = structlog.get_logger()


class Begun(msgspec.Struct, frozen=True):
    """All that a worker needs to take a run on, from its start or from where another one left it."""

    claim: Claim
    given: RunInput
    state: RunState
    answers: list[Answered]
    interrupted: frozenset[str]


class Runs:
    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        queue: JobQueue,
        webhooks: Webhooks,
        settings: Settings,
    ):
        self._database = database
        self._publisher = publisher
        self._queue = queue
        self._lease = settings.execution_lease_seconds
        self._max_attempts = settings.execution_max_attempts
        self._answer_seconds = settings.approval_timeout_seconds
        self._announce = Announcements(publisher)
        self.endings = Endings(self._announce, queue, webhooks)

    async def begin(self, execution_id: UUID, worker: str) -> Begun | None:
        """Claims a queued run and tells readers. None when it is no longer queued."""
        async with self._database.unit_of_work() as rows:
            await sessions.lock_of_run(rows, execution_id)
            claim = await leases.claim(rows, execution_id, worker=worker, lease=self._lease, at=now())
            if claim is None:
                return None
            state, saved = await _state(rows, claim.id)
            resumed = claim.fence == 1 or state.waited_at_fence == claim.fence - 1
            kind = EventType.STARTED if resumed else EventType.RESTARTED
            data = StartedData(claim.id, claim.session_id, claim.agent_id, claim.attempt)
            self._announce.run(rows, claim, kind, data, fence=claim.fence)
            if not resumed and state.content:
                kept = SnapshotData.of(state.message_id, state.content, ExecutionStatus.RUNNING)
                snapshot = (EventType.SNAPSHOT, kept)
                self._publisher.record(rows, execution_channel(claim.id), snapshot, fence=claim.fence)
            calls = await tool_calls.of_run(rows, claim.id) if saved else []
            given = await _input(rows, claim)
            await agents.lock(rows, [claim.agent_id])
        answers = [answer for call in calls if (answer := answer_of(call)) is not None]
        interrupted = frozenset(call.call_id for call in calls if call.status is ToolCallStatus.RUNNING)
        return Begun(claim, given, state, answers, interrupted)

    async def speak(self, claim: Claim, events: Sequence[NewEvent]) -> None:
        """Logs what is not worth a transaction: tokens and progress. Raises LostClaim."""
        try:
            await self._publisher.tell(execution_channel(claim.id), events, fence=claim.fence)
        except Fenced as error:
            raise LostClaim from error

    async def note_first_token(self, claim: Claim, at: datetime) -> None:
        """Writes down when the model began to speak; nothing happens when the run is no longer this worker's."""
        async with self._database.unit_of_work() as rows:
            await leases.set_first_token(rows, claim, at)

    async def save(self, claim: Claim, state: RunState, calls: Sequence[ToolCall], told: Sequence[ToolCall]) -> None:
        """Writes down where the run stands, the calls as they are, and tells of some of them. Raises LostClaim."""
        async with self._database.unit_of_work() as rows:
            await self._hold(rows, claim)
            await leases.keep_state(rows, claim.id, to_json(state))
            await self._keep_calls(rows, claim, calls, told)

    async def keep_call(self, claim: Claim, call: ToolCall) -> None:
        """Writes down a call that has ended while others run, and tells of it. Raises LostClaim."""
        async with self._database.unit_of_work() as rows:
            await self._hold(rows, claim)
            await self._keep_calls(rows, claim, [call], [call])

    async def _hold(self, rows: Connection, claim: Claim) -> None:
        if await leases.renew(rows, claim, lease=self._lease) is None:
            raise LostClaim

    async def _keep_calls(
        self, rows: Connection, claim: Claim, calls: Sequence[ToolCall], told: Sequence[ToolCall]
    ) -> None:
        for call in calls:
            await tool_calls.keep(rows, claim.id, call)
        if told:
            events = [call_event(call) for call in told]
            self._publisher.record(rows, execution_channel(claim.id), *events, fence=claim.fence)

    async def wait(self, claim: Claim, state: RunState, outcome: Outcome) -> bool:
        """Leaves the run to those who must answer; `outcome` ends it if somebody wanted to stop it meanwhile.

        Tells whether it waits. Raises LostClaim.
        """
        state.waited_at_fence = claim.fence
        async with self._database.unit_of_work() as rows:
            await sessions.lock(rows, claim.owner_id, [claim.session_id])
            current = await leases.mine(rows, claim)
            if current is None:
                raise LostClaim
            if current.cancel_requested:
                await self.endings.end(rows, claim, outcome)
                return False
            await leases.keep_state(rows, claim.id, to_json(state))
            await self._ask(rows, claim)
            if not await leases.wait(rows, claim):
                raise LostClaim
            await self._announce.session_is(rows, claim.session_id, SessionStatus.WAITING)
            await self._announce.agent_is(rows, claim.agent_id, AgentStatus.WAITING)
            # For what was answered before it was asked.
            await self.go_on(rows, claim.id, claim.session_id, claim.agent_id)
        return True

    async def _ask(self, rows: Connection, claim: Claim) -> None:
        """Tells those who watch the run or its session what it waits for, and until when."""
        until = now() + timedelta(seconds=self._answer_seconds)
        asked: list[Event] = []
        begun: list[Event] = []
        for call in await tool_calls.of_run(rows, claim.id):
            if call.status not in tool_calls.OPEN:
                continue
            call.expires_at = until
            await tool_calls.keep(rows, claim.id, call)
            if call.status is ToolCallStatus.AWAITING_RESULT:
                begun.append(call_event(call))
            else:
                arguments, left_out = bounded(call.arguments)
                wanted = {"arguments": arguments, "expires_at": until, "truncated": left_out}
                asked.append((EventType.APPROVAL_REQUESTED, _about(claim.id, claim.session_id, call) | wanted))
        self._publisher.record(rows, execution_channel(claim.id), *begun, fence=claim.fence)
        self._announce.approvals(rows, claim, *asked, fence=claim.fence)

    async def end(self, claim: Claim, outcome: Outcome) -> None:
        """Raises LostClaim."""
        async with self._database.unit_of_work() as rows:
            await self.endings.end(rows, claim, outcome)

    async def cancel_idle(self, rows: Connection, execution_id: UUID) -> bool:
        """Ends a run that no worker holds, in the caller's transaction, and tells whether there was one to end."""
        claim = await leases.take(rows, execution_id, lease=self._lease)
        if claim is None:
            return False
        state, _ = await _state(rows, claim.id)
        await self.endings.end(rows, claim, partial_outcome(state, ExecutionStatus.CANCELLED))
        return True

    async def renew_all(self, worker: str, ids: Sequence[UUID]) -> list[Held]:
        """Keeps the leases of these runs, and tells which of them the worker holds."""
        async with self._database.unit_of_work() as rows:
            return await leases.renew_all(rows, worker, ids, lease=self._lease)

    async def to_cancel(self, worker: str) -> list[Held]:
        return await leases.to_cancel(self._database.reader, worker)

    async def recover(self) -> list[UUID]:
        """Takes runs from silent workers, ends waits whose time is over, and names all that a worker may begin."""
        for claim in await leases.lost(self._database.reader):
            await _apart(self._give_back(claim), claim.id)
        for execution_id in await tool_calls.runs_with_expired(self._database.reader):
            await _apart(self._expire_calls(execution_id), execution_id)
        return await leases.queued(self._database.reader, SWEPT_AT_ONCE)

    async def _give_back(self, claim: Claim) -> None:
        if claim.attempt < self._max_attempts and not claim.cancel_requested:
            await self.release(claim, lost=True)
            return
        error = ExecutionError("worker_lost", f"The run lost its worker {claim.attempt} times")
        # Its worker may be back, and has the run: then nothing of this is written.
        with contextlib.suppress(LostClaim):
            async with self._database.unit_of_work() as rows:
                state, _ = await _state(rows, claim.id)
                outcome = partial_outcome(state, ExecutionStatus.FAILED, error)
                if claim.cancel_requested:
                    outcome = partial_outcome(state, ExecutionStatus.CANCELLED)
                await self.endings.end(rows, claim, outcome)

    async def release(self, claim: Claim, *, lost: bool = False) -> None:
        """Leaves a run to the next worker; a `lost` one counts as an attempt."""
        async with self._database.unit_of_work() as rows:
            if await leases.release(rows, claim, lost=lost):
                rows.after_commit(partial(self._queue.enqueue, claim.id))

    async def _expire_calls(self, execution_id: UUID) -> None:
        async with self._database.unit_of_work() as rows:
            execution = await executions.lock(rows, execution_id)
            if execution is None:
                return
            over = await tool_calls.expire(rows, execution_id, now())
            refused = [_refused(execution, call) for call in over if call.kind is not ToolKind.CLIENT]
            unanswered = [call_event(call) for call in over if call.kind is ToolKind.CLIENT]
            self._publisher.record(rows, execution_channel(execution_id), *unanswered)
            self._announce.approvals(rows, execution, *refused)
            await self.go_on(rows, execution_id, execution.session_id, execution.agent_id)

    async def go_on(self, rows: Connection, execution_id: UUID, session_id: UUID, agent_id: UUID) -> None:
        """Queues a run whose last open question was answered; the caller has locked session and execution."""
        if await tool_calls.count_open(rows, execution_id) or not await leases.go_on(rows, execution_id):
            return
        await self._announce.session_is(rows, session_id, SessionStatus.ACTIVE)
        await self._announce.agent_is(rows, agent_id, AgentStatus.PROCESSING)
        rows.after_commit(partial(self._queue.enqueue, execution_id))


async def _apart(work: Coroutine[Any, Any, None], execution_id: UUID) -> None:
    """What fails for one run keeps no other one waiting."""
    try:
        await work
    except Exception:
        log.exception("recovery_failed", execution_id=str(execution_id))


def partial_outcome(state: RunState, status: ExecutionStatus, error: ExecutionError | None = None) -> Outcome:
    """The end of a run that was cut off: what was said is kept, and its tokens may be more than were counted."""
    usage = msgspec.structs.replace(state.usage, estimated=True)
    return Outcome(status, state.message_id, state.content, usage, error, metadata={"partial": True})


async def _state(rows: Connection, execution_id: UUID) -> tuple[RunState, bool]:
    """Where the run stands, and whether anything of it was ever saved."""
    saved = await leases.state(rows, execution_id)
    if saved is None:
        return RunState(new_id()), False
    try:
        return msgspec.json.decode(saved, type=RunState), True
    except msgspec.MsgspecError:  # Of another release: the run begins anew.
        log.exception("state_unreadable", execution_id=str(execution_id))
        return RunState(new_id()), False


async def _input(rows: Connection, claim: Claim) -> RunInput:
    agent = await agents.at_version(rows, claim.owner_id, claim.agent_id, claim.agent_version)
    if agent is None:  # Written by a node of a release that kept no versions, or deleted.
        agent = await agents.content(rows, claim.owner_id, claim.agent_id)
    branch = await messages.branch(rows, claim.input_message_id) if claim.input_message_id else []
    names = msgspec.json.decode(agent.tools, type=list[str]) if agent else []
    specs = await tools.named(rows, claim.owner_id, names) if names else []
    return RunInput(agent, branch, claim.owner_id, specs)


def _about(execution_id: UUID, session_id: UUID, call: ToolCall) -> dict[str, Any]:
    run = {"execution_id": execution_id, "session_id": session_id}
    return run | {"call_id": call.call_id, "name": call.name}


def _refused(run: Located, call: ToolCall) -> Event:
    return EventType.APPROVAL_EXPIRED, _about(run.id, run.session_id, call)
