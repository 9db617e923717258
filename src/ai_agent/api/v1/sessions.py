"""`/sessions`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody

from ai_agent.api.answers import expected
from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.json_lines import NDJSON, json_lines
from ai_agent.api.openapi import may_answer
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.api.rate_limits import BULK, limited
from ai_agent.domain.exports import ExportLine
from ai_agent.domain.identity import Scope
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.rate_limits import RouteClass
from ai_agent.domain.search import checked
from ai_agent.domain.sessions import (
    CreateSession,
    CreateSessions,
    ForkSession,
    PatchSession,
    ReplaceSession,
    Session,
    SessionFilter,
    SessionIds,
    SessionPage,
    SessionStatus,
    metadata_filter,
)
from ai_agent.services.sessions import SessionService


class SessionController(Controller):
    path = "/sessions"
    tags = ["Sessions"]

    @post(opt=needs(Scope.SESSIONS_WRITE) | limited(RouteClass.SESSION_CREATE))
    async def create_session(
        self, request: Caller, data: JSONBody[CreateSession], sessions: NamedDependency[SessionService]
    ) -> Session:
        """Create a session

        A session is one conversation. All fields are optional; `POST /agents/{agent_id}/execute` makes one by itself.
        """
        return await sessions.create(request.user, data)

    @post("/bulk-create", opt=needs(Scope.SESSIONS_WRITE) | BULK)
    async def bulk_create_sessions(
        self, request: Caller, data: JSONBody[CreateSessions], sessions: NamedDependency[SessionService]
    ) -> Sequence[Session]:
        """Create several sessions

        One to a hundred, answered in order; all or none. Errors name the item, as in `[3].title`.
        """
        return await sessions.create_all(request.user, data)

    @delete("/bulk-delete", opt=needs(Scope.SESSIONS_WRITE) | BULK | may_answer(404))
    async def bulk_delete_sessions(
        self, request: Caller, data: JSONBody[SessionIds], sessions: NamedDependency[SessionService]
    ) -> None:
        """Delete several sessions

        One to a hundred ids; all or none. Unknown ones are 404, which lists them.
        """
        await sessions.delete_all(request.user, data)

    @post("/bulk-delete", status_code=204, opt=needs(Scope.SESSIONS_WRITE) | BULK | may_answer(404))
    async def bulk_delete_sessions_by_post(
        self, request: Caller, data: JSONBody[SessionIds], sessions: NamedDependency[SessionService]
    ) -> None:
        """Delete several sessions by POST

        The same, for clients that cannot send a body with DELETE.
        """
        await sessions.delete_all(request.user, data)

    @post("/{session_id:uuid}/fork", opt=needs(Scope.SESSIONS_WRITE))
    async def fork_session(
        self,
        request: Caller,
        session_id: FromPath[UUID],
        data: JSONBody[ForkSession],
        sessions: NamedDependency[SessionService],
    ) -> Session:
        """Fork a session

        Copies the branch up to a message, by default the newest, into a new session.
        """
        return await sessions.fork(request.user, session_id, data)

    @get(
        "/{session_id:uuid}/export",
        responses={200: ResponseSpec(ExportLine, media_type=NDJSON)},  # type: ignore[arg-type]  # a union of Structs
        opt=needs(Scope.SESSIONS_READ),
    )
    async def export_session(
        self, request: Caller, session_id: FromPath[UUID], sessions: NamedDependency[SessionService]
    ) -> Response[object]:
        """Export a session

        The whole session as JSON Lines: itself, its messages in order, its executions in order.
        """
        lines = await sessions.export(request.user, session_id)
        return json_lines(request, lines, f"session-{session_id}.jsonl")

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
        search: FromQuery[str | None] = None,
        metadata: FromQuery[list[str] | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[SessionPage]:
        """List sessions

        Those of the caller, the newest conversation first unless sorted otherwise. Filters compose with AND.
        """
        wanted = SessionFilter(
            user_id=user_id,
            status=status,
            search=None if search is None else checked(search),
            metadata=metadata_filter(metadata),
            created_after=created_after,
            created_before=created_before,
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
