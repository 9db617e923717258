"""`/sessions/{session_id}/messages` and `/messages`."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from ai_agent.api.answers import expected
from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.openapi import may_answer
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, LongLimit, Offset, SortOrder
from ai_agent.api.rate_limits import BULK, limited
from ai_agent.domain.identity import Scope
from ai_agent.domain.messages import (
    CreateMessage,
    CreateMessages,
    Message,
    MessageFilter,
    MessagePage,
    PatchMessage,
    ReplaceMessage,
    Role,
    SearchFilter,
    Thread,
)
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.rate_limits import RouteClass
from ai_agent.domain.search import parse
from ai_agent.services.messages import MessageService


class MessageController(Controller):
    tags = ["Messages"]

    @post("/sessions/{session_id:uuid}/messages", opt=needs(Scope.SESSIONS_WRITE) | limited(RouteClass.MESSAGE_CREATE))
    async def create_message(
        self,
        request: Caller,
        session_id: FromPath[UUID],
        data: JSONBody[CreateMessage],
        messages: NamedDependency[MessageService],
    ) -> Message:
        """Create a message

        It follows `parent_message_id`, or else the newest message of the session. No agent answers: that is what
        executing one is for.
        """
        return await messages.create(request.user, session_id, data)

    @post("/sessions/{session_id:uuid}/messages/bulk-create", opt=needs(Scope.SESSIONS_WRITE) | BULK)
    async def bulk_create_messages(
        self,
        request: Caller,
        session_id: FromPath[UUID],
        data: JSONBody[CreateMessages],
        messages: NamedDependency[MessageService],
    ) -> Sequence[Message]:
        """Create several messages

        One to a hundred, each after the one before; all or none. Errors name the item, as in `[3].content`.
        """
        return await messages.create_all(request.user, session_id, data)

    @get("/sessions/{session_id:uuid}/messages", opt=needs(Scope.SESSIONS_READ))
    async def list_messages(
        self,
        request: Caller,
        session_id: FromPath[UUID],
        messages: NamedDependency[MessageService],
        limit: LongLimit = 50,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_order: SortOrder = "asc",
        role: FromQuery[Role | None] = None,
        search: FromQuery[str | None] = None,
        parent_message_id: FromQuery[UUID | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[MessagePage]:
        """List the messages of a session

        In the order of writing, unless `sort_order` is `desc`. Filters compose with AND.
        """
        wanted = MessageFilter(
            session_id=session_id,
            role=role,
            search=None if search is None else parse(search),
            parent_message_id=parent_message_id,
            created_after=created_after,
            created_before=created_before,
        )
        page = PageRequest(limit, cursor, offset, include_total, "position", sort_order == "desc")
        return linked(request, await messages.list(request.user, wanted, page))

    @get("/messages", opt=needs(Scope.SESSIONS_READ) | may_answer(404))
    async def search_messages(
        self,
        request: Caller,
        messages: NamedDependency[MessageService],
        search: FromQuery[str],
        limit: LongLimit = 50,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        role: FromQuery[Role | None] = None,
        session_id: FromQuery[UUID | None] = None,
        agent_id: FromQuery[UUID | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[MessagePage]:
        """Search the messages of all sessions

        Full-text search, best match first: `word`, `"a phrase"`, `-word`, `or`. A word of three or more characters
        matches anywhere in the text, in any case and script. `snippet` marks what was found.
        """
        wanted = SearchFilter(
            search=parse(search),
            role=role,
            session_id=session_id,
            agent_id=agent_id,
            created_after=created_after,
            created_before=created_before,
        )
        page = PageRequest(limit, cursor, offset, include_total, "rank", descending=True)
        return linked(request, await messages.search(request.user, wanted, page))

    @get("/messages/{message_id:uuid}/thread", opt=needs(Scope.SESSIONS_READ))
    async def get_message_thread(
        self, request: Caller, message_id: FromPath[UUID], messages: NamedDependency[MessageService]
    ) -> Thread:
        """Get the thread of a message

        Its ancestors from the root and its direct replies, each with the number of its siblings, so that a client can
        draw branches.
        """
        return await messages.thread(request.user, message_id)

    @get("/messages/{message_id:uuid}", opt=needs(Scope.SESSIONS_READ))
    async def get_message(
        self, request: Caller, message_id: FromPath[UUID], messages: NamedDependency[MessageService]
    ) -> Message:
        """Get a message

        Also one that an agent wrote; `execution_id` then names the run.
        """
        return await messages.get(request.user, message_id)

    @put("/messages/{message_id:uuid}", opt=needs(Scope.SESSIONS_WRITE))
    async def replace_message(
        self,
        request: Caller,
        message_id: FromPath[UUID],
        data: JSONBody[ReplaceMessage],
        messages: NamedDependency[MessageService],
    ) -> Message:
        """Replace a message

        What is absent goes back to its default. Its place in the conversation stays.
        """
        return await messages.replace(request.user, message_id, data, expected(request))

    @patch("/messages/{message_id:uuid}", opt=needs(Scope.SESSIONS_WRITE))
    async def patch_message(
        self,
        request: Caller,
        message_id: FromPath[UUID],
        data: JSONBody[PatchMessage],
        messages: NamedDependency[MessageService],
    ) -> Message:
        """Change a message

        JSON Merge Patch: what is absent stays, null clears, and `metadata` is merged member by member.
        """
        return await messages.patch(request.user, message_id, data, expected(request))

    @delete("/messages/{message_id:uuid}", opt=needs(Scope.SESSIONS_WRITE))
    async def delete_message(
        self, request: Caller, message_id: FromPath[UUID], messages: NamedDependency[MessageService]
    ) -> None:
        """Delete a message

        Its replies follow its parent from then on, so that no conversation breaks.
        """
        await messages.delete(request.user, message_id, expected(request))
