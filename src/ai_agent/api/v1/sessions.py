"""`/sessions`."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from ai_agent.api.answers import expected
from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.domain.identity import Scope
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.sessions import (
    CreateSession,
    PatchSession,
    ReplaceSession,
    Session,
    SessionFilter,
    SessionPage,
    SessionStatus,
)
from ai_agent.services.sessions import SessionService


class SessionController(Controller):
    path = "/sessions"
    tags = ["Sessions"]

    @post(opt=needs(Scope.SESSIONS_WRITE))
    async def create_session(
        self, request: Caller, data: JSONBody[CreateSession], sessions: NamedDependency[SessionService]
    ) -> Session:
        """Create a session

        A session is one conversation. All fields are optional; `POST /agents/{agent_id}/execute` makes one by itself.
        """
        return await sessions.create(request.user, data)

    @get(opt=needs(Scope.SESSIONS_READ))
    async def list_sessions(
        self,
        request: Caller,
        sessions: NamedDependency[SessionService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["last_activity", "created_at", "updated_at"]] = "last_activity",
        sort_order: SortOrder = "desc",
        user_id: FromQuery[str | None] = None,
        status: FromQuery[SessionStatus | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[SessionPage]:
        """List sessions

        Those of the caller, the newest conversation first unless sorted otherwise. Filters compose with AND.
        """
        wanted = SessionFilter(
            user_id=user_id, status=status, created_after=created_after, created_before=created_before
        )
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await sessions.list(request.user, wanted, page))

    @get("/{session_id:uuid}", opt=needs(Scope.SESSIONS_READ))
    async def get_session(
        self, request: Caller, session_id: FromPath[UUID], sessions: NamedDependency[SessionService]
    ) -> Session:
        """Get a session

        Its `status` tells whether an agent is at work in it.
        """
        return await sessions.get(request.user, session_id)

    @put("/{session_id:uuid}", opt=needs(Scope.SESSIONS_WRITE))
    async def replace_session(
        self,
        request: Caller,
        session_id: FromPath[UUID],
        data: JSONBody[ReplaceSession],
        sessions: NamedDependency[SessionService],
    ) -> Session:
        """Replace a session

        What is absent goes back to its default.
        """
        return await sessions.replace(request.user, session_id, data, expected(request))

    @patch("/{session_id:uuid}", opt=needs(Scope.SESSIONS_WRITE))
    async def patch_session(
        self,
        request: Caller,
        session_id: FromPath[UUID],
        data: JSONBody[PatchSession],
        sessions: NamedDependency[SessionService],
    ) -> Session:
        """Change a session

        JSON Merge Patch: what is absent stays, null clears, and `metadata` is merged member by member.
        """
        return await sessions.patch(request.user, session_id, data, expected(request))

    @delete("/{session_id:uuid}", opt=needs(Scope.SESSIONS_WRITE))
    async def delete_session(
        self, request: Caller, session_id: FromPath[UUID], sessions: NamedDependency[SessionService]
    ) -> None:
        """Delete a session

        Its messages, executions and events go with it, and what runs in it is cancelled.
        """
        await sessions.delete(request.user, session_id, expected(request))
