"""Messages of a session: post, read, list, change, delete."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from uuid import UUID

import msgspec
from msgspec import UNSET

from ai_agent.domain.errors import FieldError, InvalidFields, NotFound
from ai_agent.domain.events import EventType
from ai_agent.domain.fields import StoredJson, new_id, now, to_json
from ai_agent.domain.identity import Principal
from ai_agent.domain.messages import (
    CreateMessage,
    FoundMessage,
    Message,
    MessageFilter,
    MessagePage,
    PatchMessage,
    ReplaceMessage,
    SearchFilter,
    Thread,
    ThreadMessage,
)
from ai_agent.domain.pages import Page, PageRequest
from ai_agent.domain.resources import Versions
from ai_agent.domain.search import SearchQuery, snippet
from ai_agent.realtime.announcements import Announcements
from ai_agent.services.paging import Pager
from ai_agent.services.sessions import found as found_session
from ai_agent.services.sessions import patched_metadata
from ai_agent.storage import messages, sessions, threads
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.search import Hit, RankedSearch

NO_PARENT = "Is not a message of this session"


class HitPage(Page):
    items: list[Hit]


class MessageService:
    def __init__(self, database: Database, pager: Pager, announcements: Announcements):
        self._database = database
        self._announce = announcements
        self._pager = pager
        self._ranked = RankedSearch(messages.LIST, database.patient)

    async def create(self, principal: Principal, session_id: UUID, wanted: CreateMessage) -> Message:
        async with self._database.unit_of_work() as rows:
            message = await add_message(rows, principal.subject, session_id, wanted)
            self._announce.message(rows, EventType.MESSAGE_CREATED, message)
        return message

    async def create_all(
        self, principal: Principal, session_id: UUID, wanted: Sequence[CreateMessage]
    ) -> Sequence[Message]:
        """Posts messages in their order, all or none; one without a parent follows the one before it."""
        owner, at = principal.subject, now()
        async with self._database.unit_of_work() as rows:
            first = await sessions.take_positions(rows, owner, session_id, at, len(wanted))
            if first is None:
                raise NotFound("Session not found")
            await _check_parents(rows, owner, session_id, wanted)
            made = [_new_message(session_id, one, first + number, at) for number, one in enumerate(wanted)]
            if made[0].parent_message_id is None:
                made[0].parent_message_id = await messages.newest(rows, owner, session_id)
            for before, message in pairwise(made):
                message.parent_message_id = message.parent_message_id or before.id
            await messages.insert_all(rows, owner, made)
            self._announce.message(rows, EventType.MESSAGE_CREATED, *made)
        return made

    async def get(self, principal: Principal, message_id: UUID) -> Message:
        return found(await messages.get(self._database.reader, principal.subject, message_id))

    async def list(self, principal: Principal, wanted: MessageFilter, request: PageRequest) -> MessagePage:
        owner = principal.subject
        page = await self._pager.page(MessagePage, messages.LIST, owner, wanted, request)
        if not page.items:
            # Only an empty page has to tell an empty session from one that is not there.
            found_session(await sessions.get(self._database.reader, owner, wanted.session_id))
        if wanted.search is not None:
            page.items = await _with_snippets(page.items, wanted.search)
        return page

    async def search(self, principal: Principal, wanted: SearchFilter, request: PageRequest) -> MessagePage:
        """All messages of the owner that match, those that match the most terms first, then the newest."""
        owner, reader = principal.subject, self._database.reader
        page = await self._pager.page(HitPage, self._ranked, owner, wanted, request)
        if not page.items and wanted.session_id is not None:
            found_session(await sessions.get(reader, owner, wanted.session_id))
        rows = await messages.get_all(reader, owner, [hit.id for hit in page.items])
        items = await _with_snippets([rows[hit.id] for hit in page.items if hit.id in rows], wanted.search)
        return MessagePage(items=items, next_cursor=page.next_cursor, has_more=page.has_more, total=page.total)

    async def thread(self, principal: Principal, message_id: UUID) -> Thread:
        """The message between its ancestors and its direct replies."""
        owner, reader = principal.subject, self._database.reader
        way = await threads.way_to(reader, owner, message_id)
        if not way:
            raise NotFound("Message not found")
        replies = await threads.replies(reader, owner, message_id)
        shown = way + replies[: threads.REPLIES]
        places = await threads.places(reader, owner, way[-1].session_id, shown)
        placed = [_placed(message, places.get(message.id)) for message in shown]
        return Thread(
            ancestors=placed[: len(way) - 1],
            message=placed[len(way) - 1],
            replies=placed[len(way) :],
            ancestors_truncated=way[0].parent_message_id is not None,
            replies_truncated=len(replies) > threads.REPLIES,
        )

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
            await sessions.lock_of_message(rows, message_id)
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
            changed = found(await messages.update(rows, principal.subject, message))
            self._announce.message(rows, EventType.MESSAGE_UPDATED, changed)
        return changed

    async def delete(self, principal: Principal, message_id: UUID, versions: Versions | None = None) -> None:
        """Removes the message; its replies follow its parent."""
        owner = principal.subject
        async with self._database.unit_of_work() as rows:
            message = found(await messages.get(rows, owner, message_id))
            # The session's row first, as in posting, so that the two never wait for each other.
            await sessions.forget_message(rows, owner, message.session_id, now())
            # Again: its parent may have been deleted meanwhile.
            message = found(await messages.get(rows, owner, message_id, for_update=True))
            message.expect(versions)
            await messages.delete(rows, owner, message)
            self._announce.message_deleted(rows, message)


async def add_message(rows: Connection, owner: str, session_id: UUID, wanted: CreateMessage) -> Message:
    """Posts a message in the caller's transaction. Raises NotFound for the session, InvalidFields for the parent."""
    at = now()
    position = await sessions.take_position(rows, owner, session_id, at)
    if position is None:
        raise NotFound("Session not found")
    parent = wanted.parent_message_id
    if parent is not None and not await messages.is_in_session(rows, owner, session_id, parent):
        raise InvalidFields([FieldError("parent_message_id", NO_PARENT, str(parent))])
    return await messages.insert(rows, owner, _new_message(session_id, wanted, position, at))


async def _check_parents(rows: Connection, owner: str, session_id: UUID, wanted: Sequence[CreateMessage]) -> None:
    """Raises InvalidFields for each parent that is not a message of the session."""
    parents = [(f"[{number}].parent_message_id", one.parent_message_id) for number, one in enumerate(wanted)]
    given = [(field, parent) for field, parent in parents if parent is not None]
    if not given:
        return
    known = await messages.those_in_session(rows, owner, session_id, [parent for _, parent in given])
    if errors := [FieldError(field, NO_PARENT, str(parent)) for field, parent in given if parent not in known]:
        raise InvalidFields(errors)


async def _with_snippets(found: Sequence[Message], search: SearchQuery) -> list[FoundMessage]:
    items = []
    for message in found:
        items.append(FoundMessage(**msgspec.structs.asdict(message), snippet=snippet(message.content, search)))
        await asyncio.sleep(0)  # One of 1 MiB takes milliseconds: others get their turn.
    return items


def _placed(message: Message, place: threads.Place | None) -> ThreadMessage:
    count, index = (place.count, place.index) if place else (1, 0)  # Deleted a moment ago.
    return ThreadMessage(**msgspec.structs.asdict(message), sibling_count=count, sibling_index=index)


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
