"""Sessions: create, read, list, change, delete."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from ai_agent.domain.agents import AgentStatus
from ai_agent.domain.errors import FieldError, InvalidFields, NotFound
from ai_agent.domain.events import EventType
from ai_agent.domain.exports import ExecutionLine, ExportLine, MessageLine, SessionLine
from ai_agent.domain.fields import StoredJson, check_metadata, merge_patch, new_id, now, to_json
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.domain.sessions import (
    CreateSession,
    ForkSession,
    PatchSession,
    ReplaceSession,
    Session,
    SessionFilter,
    SessionPage,
    SessionStatus,
)
from ai_agent.execution.job_queue import JobQueue
from ai_agent.realtime.announcements import Announcements
from ai_agent.services.paging import Pager
from ai_agent.storage import executions, messages, sessions, threads
from ai_agent.storage.database import Connection, Database

EXPORTED_AT_ONCE = 50
EVENTS_KEPT = timedelta(days=2)
"""No longer after its end a run's events are in the log."""
FORKED_AT_MOST = 5000
"""A copy is one transaction, and those who write meanwhile wait for it."""


class SessionService:
    def __init__(self, database: Database, pager: Pager, queue: JobQueue, announcements: Announcements):
        self._database = database
        self._pager = pager
        self._queue = queue
        self._announce = announcements

    async def create(self, principal: Principal, wanted: CreateSession) -> Session:
        session = new_session(wanted)
        await self._announce.write_session(sessions.INSERT, session, **sessions.values(principal.subject, session))
        return session

    async def create_all(self, principal: Principal, wanted: Sequence[CreateSession]) -> Sequence[Session]:
        """All or none."""
        made = [new_session(one) for one in wanted]
        async with self._database.unit_of_work() as rows:
            await sessions.insert_all(rows, principal.subject, made)
            for session in made:
                self._announce.session(rows, EventType.SESSION_CREATED, session)
        return made

    async def fork(self, principal: Principal, session_id: UUID, wanted: ForkSession) -> Session:
        """Copies the branch from the root to a message into a new session.

        Of the copies nothing is told: nobody can watch the session before it is there, with all its messages.
        """
        owner = principal.subject
        async with self._database.unit_of_work() as rows:
            # Locked, so that no message of it is deleted while it is copied.
            source = found(await sessions.get(rows, owner, session_id, for_update=True))
            branch = await _branch(rows, owner, session_id, wanted.from_message_id)
            title = source.title if wanted.title is UNSET else wanted.title
            fork = new_session(CreateSession(source.user_id, title))
            fork.metadata = source.metadata
            await sessions.insert(rows, owner, fork)
            if branch:
                await sessions.take_positions(rows, owner, fork.id, fork.created_at, len(branch))
                await threads.copy(rows, owner, branch, fork.id, [new_id() for _ in branch], fork.created_at)
            forked = found(await sessions.get(rows, owner, fork.id))
            self._announce.session(rows, EventType.SESSION_CREATED, forked)
        return forked

    async def export(self, principal: Principal, session_id: UUID) -> AsyncIterator[Sequence[ExportLine]]:
        """The session, its messages in order, its executions in order. Raises NotFound before the first of them."""
        return self._exported(principal.subject, await self.get(principal, session_id))

    async def _exported(self, owner: str, session: Session) -> AsyncIterator[Sequence[ExportLine]]:
        """In short reads: a client that reads slowly holds no connection."""
        reader = self._database.reader
        yield [SessionLine(session)]
        position, last = 0, UUID(int=0)
        while written := await messages.behind(reader, owner, session.id, position, EXPORTED_AT_ONCE):
            yield [MessageLine(message) for message in written]
            position = written[-1].position
        while runs := await executions.of_session(reader, owner, session.id, last, EXPORTED_AT_ONCE):
            yield [ExecutionLine(execution) for execution in runs]
            last = runs[-1].id
        # Deleted meanwhile? Then what was written is not the whole: the stream breaks instead of ending.
        await self.get(Principal(owner, frozenset()), session.id)

    async def get(self, principal: Principal, session_id: UUID) -> Session:
        return found(await sessions.get(self._database.reader, principal.subject, session_id))

    async def list(self, principal: Principal, wanted: SessionFilter, request: PageRequest) -> SessionPage:
        return await self._pager.page(SessionPage, sessions.LIST, principal.subject, wanted, request)

    async def replace(
        self, principal: Principal, session_id: UUID, wanted: ReplaceSession, versions: Versions | None = None
    ) -> Session:
        """Raises PreconditionFailed when the session is in none of the `versions`; `patch` and `delete`, too."""
        async with self._database.unit_of_work() as rows:
            if versions is not None:
                found(await sessions.get(rows, principal.subject, session_id, for_update=True)).expect(versions)
            changed = await sessions.update(
                rows,
                principal.subject,
                session_id,
                user_id=wanted.user_id,
                title=wanted.title,
                metadata=to_json(wanted.metadata),
                at=now(),
            )
            self._announce.session(rows, EventType.SESSION_UPDATED, found(changed))
        return found(changed)

    async def patch(
        self, principal: Principal, session_id: UUID, patch: PatchSession, versions: Versions | None = None
    ) -> Session:
        async with self._database.unit_of_work() as rows:
            current = found(await sessions.get(rows, principal.subject, session_id, for_update=True))
            current.expect(versions)
            changed = await sessions.update(
                rows,
                principal.subject,
                session_id,
                user_id=current.user_id if patch.user_id is UNSET else patch.user_id,
                title=current.title if patch.title is UNSET else patch.title,
                metadata=patched_metadata(current.metadata, patch.metadata),
                at=now(),
            )
            self._announce.session(rows, EventType.SESSION_UPDATED, found(changed))
        return found(changed)

    async def delete(self, principal: Principal, session_id: UUID, versions: Versions | None = None) -> None:
        """Removes the session with its messages, executions and events, and interrupts what runs in it."""
        async with self._database.unit_of_work() as rows:
            found(await sessions.get(rows, principal.subject, session_id, for_update=True)).expect(versions)
            await self._delete(rows, principal.subject, [session_id])

    async def delete_all(self, principal: Principal, session_ids: Sequence[UUID]) -> None:
        """As `delete`, all or none. Raises NotFound with the ids that are not the owner's."""
        owner = principal.subject
        async with self._database.unit_of_work() as rows:
            known = set(await sessions.lock(rows, owner, session_ids))
            if unknown := [str(one) for one in dict.fromkeys(session_ids) if one not in known]:
                raise NotFound("Not all of the sessions were found; none is deleted", details={"ids": unknown})
            await self._delete(rows, owner, session_ids)

    async def _delete(self, rows: Connection, owner: str, session_ids: Sequence[UUID]) -> None:
        """Deletes sessions whose rows are locked, so that no run begins in them meanwhile."""
        runs = await executions.told(rows, owner, session_ids, now() - EVENTS_KEPT)
        await sessions.delete_all(rows, owner, session_ids)
        for run in runs:
            self._announce.run_deleted(rows, run, live=run.finished_at is None)
        for session_id in dict.fromkeys(session_ids):
            self._announce.session_deleted(rows, session_id)
        live = [run for run in runs if run.finished_at is None]
        # In one order, so that two of these never wait for each other.
        for agent_id in sorted({run.agent_id for run in live}):
            await self._announce.agent_is(rows, agent_id, AgentStatus.IDLE)
        for run in live:
            rows.after_commit(partial(self._queue.cancel, run.id))


async def _branch(rows: Connection, owner: str, session_id: UUID, message_id: UUID | None) -> list[threads.Node]:
    """From the root to the message, by default the newest. Raises InvalidFields for one of another session."""
    last = message_id or await messages.newest(rows, owner, session_id)
    branch = [] if last is None else await threads.branch(rows, owner, session_id, last)
    if message_id is not None and not branch:
        error = FieldError("from_message_id", "Is not a message of this session", str(message_id))
        raise InvalidFields([error])
    if len(branch) > FORKED_AT_MOST:
        error = FieldError("from_message_id", f"Ends a branch of more than {FORKED_AT_MOST} messages")
        raise InvalidFields([error])
    return branch


def new_session(wanted: CreateSession) -> Session:
    at = now()
    return Session(
        id=new_id(),
        user_id=wanted.user_id,
        title=wanted.title,
        metadata=to_json(wanted.metadata),
        message_count=0,
        last_activity=at,
        status=SessionStatus.IDLE,
        created_at=at,
        updated_at=at,
    )


def found(session: Session | None) -> Session:
    if session is None:
        raise NotFound("Session not found")
    return session


def patched_metadata(current: StoredJson, patch: dict[str, Any] | None | UnsetType) -> StoredJson:
    """Stored metadata after a JSON Merge Patch. Raises InvalidFields when the result is out of bounds."""
    if patch is UNSET:
        return current
    merged = merge_patch(msgspec.json.decode(current), patch) if patch is not None else {}
    if errors := check_metadata(merged):
        raise InvalidFields(errors)
    return to_json(merged)
