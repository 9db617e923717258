"""Sessions: create, read, list, change, delete."""

from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from ai_agent.domain.agents import AgentStatus
from ai_agent.domain.errors import InvalidFields, NotFound
from ai_agent.domain.fields import StoredJson, check_metadata, merge_patch, new_id, now, to_json
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.domain.sessions import (
    CreateSession,
    PatchSession,
    ReplaceSession,
    Session,
    SessionFilter,
    SessionPage,
    SessionStatus,
)
from ai_agent.execution.job_queue import JobQueue
from ai_agent.services.paging import Pager
from ai_agent.storage import agents, executions, sessions
from ai_agent.storage.database import Connection, Database


class SessionService:
    def __init__(self, database: Database, pager: Pager, queue: JobQueue):
        self._database = database
        self._pager = pager
        self._queue = queue

    async def create(self, principal: Principal, wanted: CreateSession) -> Session:
        session = new_session(wanted)
        await self._database.write(sessions.INSERT, **sessions.values(principal.subject, session))
        return session

    async def get(self, principal: Principal, session_id: UUID) -> Session:
        return found(await sessions.get(self._database.reader, principal.subject, session_id))

    async def list(self, principal: Principal, wanted: SessionFilter, request: PageRequest) -> SessionPage:
        return await self._pager.page(SessionPage, sessions.LIST, principal.subject, wanted, request)

    async def replace(
        self, principal: Principal, session_id: UUID, wanted: ReplaceSession, versions: Versions | None = None
    ) -> Session:
        """Raises PreconditionFailed when the session is in none of the `versions`; `patch` and `delete`, too."""
        async with self._database.unit_of_work() as rows:
            await self._expect(rows, principal, session_id, versions)
            changed = await sessions.update(
                rows,
                principal.subject,
                session_id,
                user_id=wanted.user_id,
                title=wanted.title,
                metadata=to_json(wanted.metadata),
                at=now(),
            )
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
        return found(changed)

    async def delete(self, principal: Principal, session_id: UUID, versions: Versions | None = None) -> None:
        """Removes the session with its messages, executions and events, and interrupts what runs in it."""
        async with self._database.unit_of_work() as rows:
            await self._expect(rows, principal, session_id, versions)
            live = await executions.live_of_session(rows, session_id)
            if not await sessions.delete(rows, principal.subject, session_id):
                raise NotFound("Session not found")
            for run in live:
                await agents.set_status(rows, run.agent_id, AgentStatus.IDLE)
        for run in live:
            await self._queue.cancel(run.id)

    @staticmethod
    async def _expect(rows: Connection, principal: Principal, session_id: UUID, versions: Versions | None) -> None:
        """Locks the session in one of these versions; asks nothing when any will do."""
        if versions is not None:
            found(await sessions.get(rows, principal.subject, session_id, for_update=True)).expect(versions)


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
