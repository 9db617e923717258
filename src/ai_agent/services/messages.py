"""Messages of a session: post, read, list, change, delete."""

from datetime import datetime
from uuid import UUID

from msgspec import UNSET

from ai_agent.domain.errors import FieldError, InvalidFields, NotFound
from ai_agent.domain.fields import StoredJson, new_id, now, to_json
from ai_agent.domain.identity import Principal
from ai_agent.domain.messages import (
    CreateMessage,
    Message,
    MessageFilter,
    MessagePage,
    PatchMessage,
    ReplaceMessage,
)
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.services.paging import Pager
from ai_agent.services.sessions import found as found_session
from ai_agent.services.sessions import patched_metadata
from ai_agent.storage import messages, sessions
from ai_agent.storage.database import Connection, Database


class MessageService:
    def __init__(self, database: Database, pager: Pager):
        self._database = database
        self._pager = pager

    async def create(self, principal: Principal, session_id: UUID, wanted: CreateMessage) -> Message:
        async with self._database.unit_of_work() as rows:
            return await add_message(rows, principal.subject, session_id, wanted)

    async def get(self, principal: Principal, message_id: UUID) -> Message:
        return found(await messages.get(self._database.reader, principal.subject, message_id))

    async def list(self, principal: Principal, wanted: MessageFilter, request: PageRequest) -> MessagePage:
        owner = principal.subject
        page = await self._pager.page(MessagePage, messages.LIST, owner, wanted, request)
        if not page.items:
            # Only an empty page has to tell an empty session from one that is not there.
            found_session(await sessions.get(self._database.reader, owner, wanted.session_id))
        return page

    async def replace(
        self, principal: Principal, message_id: UUID, wanted: ReplaceMessage, versions: Versions | None = None
    ) -> Message:
        """Raises PreconditionFailed when the message is in none of the `versions`; `patch` and `delete`, too."""
        patch = PatchMessage(wanted.content, wanted.role, UNSET, wanted.tool_calls)
        return await self._change(principal, message_id, patch, to_json(wanted.metadata), versions)

    async def patch(
        self, principal: Principal, message_id: UUID, patch: PatchMessage, versions: Versions | None = None
    ) -> Message:
        return await self._change(principal, message_id, patch, None, versions)

    async def _change(
        self,
        principal: Principal,
        message_id: UUID,
        patch: PatchMessage,
        metadata: StoredJson | None,
        versions: Versions | None,
    ) -> Message:
        async with self._database.unit_of_work() as rows:
            message = found(await messages.get(rows, principal.subject, message_id, for_update=True))
            message.expect(versions)
            if metadata is None:
                metadata = patched_metadata(message.metadata, patch.metadata)
            message.metadata = metadata
            if patch.tool_calls is not UNSET:
                message.tool_calls = to_json(patch.tool_calls or [])
            message.role = message.role if patch.role is UNSET else patch.role
            message.content = message.content if patch.content is UNSET else patch.content
            message.updated_at = now()
            return found(await messages.update(rows, principal.subject, message))

    async def delete(self, principal: Principal, message_id: UUID, versions: Versions | None = None) -> None:
        """Removes the message; its replies follow its parent."""
        owner = principal.subject
        async with self._database.unit_of_work() as rows:
            message = found(await messages.get(rows, owner, message_id))
            # The session's row first, as in posting, so that the two never wait for each other.
            await sessions.forget_message(rows, owner, message.session_id, now())
            found(await messages.get(rows, owner, message_id, for_update=True)).expect(versions)
            await messages.delete(rows, owner, message)


async def add_message(rows: Connection, owner: str, session_id: UUID, wanted: CreateMessage) -> Message:
    """Posts a message in the caller's transaction. Raises NotFound for the session, InvalidFields for the parent."""
    at = now()
    position = await sessions.take_position(rows, owner, session_id, at)
    if position is None:
        raise NotFound("Session not found")
    parent = wanted.parent_message_id
    if parent is not None and not await messages.is_in_session(rows, owner, session_id, parent):
        raise InvalidFields([FieldError("parent_message_id", "Is not a message of this session", str(parent))])
    return await messages.insert(rows, owner, _new_message(session_id, wanted, position, at))


def _new_message(session_id: UUID, wanted: CreateMessage, position: int, at: datetime) -> Message:
    return Message(
        id=new_id(),
        session_id=session_id,
        role=wanted.role,
        content=wanted.content,
        metadata=to_json(wanted.metadata),
        tool_calls=to_json(wanted.tool_calls),
        parent_message_id=wanted.parent_message_id,
        agent_id=None,
        execution_id=None,
        position=position,
        created_at=at,
        updated_at=at,
    )


def found(message: Message | None) -> Message:
    if message is None:
        raise NotFound("Message not found")
    return message
