"""Messages of a session, in their order of arrival and as the tree that their parents make."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.messages import HistoryEntry, Message
from ai_agent.domain.search import fold, searchable
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among
from ai_agent.storage.keyset import Listing
from ai_agent.storage.search import MATCHES
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import messages

BRANCH_LENGTH = 1000

LIST = Listing(messages, Message, {"search": MATCHES})

_COLUMNS = [messages.c[name] for name in (*Message.__struct_fields__, VERSION)]
_MINE = (messages.c.id == sa.bindparam("message_id"), messages.c.owner_id == sa.bindparam("owner"))
_GET = Statement(sa.select(*_COLUMNS).where(*_MINE), Message)
_GET_FOR_UPDATE = Statement(sa.select(*_COLUMNS).where(*_MINE).with_for_update(), Message)
_IN_SESSION = (messages.c.session_id == sa.bindparam("session_id"), messages.c.owner_id == sa.bindparam("owner"))
_HAS = Statement(sa.select(sa.func.count()).where(*_MINE, *_IN_SESSION), int)
_newest = sa.select(messages.c.id).where(*_IN_SESSION).order_by(messages.c.position.desc()).limit(1)
_parent = sa.bindparam("parent_message_id", type_=messages.c.id.type)
_names = (*Message.__struct_fields__, "owner_id", "search_text")
_INSERTED: dict[str, Any] = {name: sa.bindparam(name) for name in _names}
_INSERT = Statement(
    sa.insert(messages)
    .values(_INSERTED | {"parent_message_id": sa.func.coalesce(_parent, _newest.scalar_subquery())})
    .returning(*_COLUMNS),
    Message,
)
_INSERT_ALL: Statement[None] = Statement(sa.insert(messages).values(_INSERTED))
_NEWEST = Statement(_newest, UUID)
_HAVE = Statement(sa.select(messages.c.id).where(among(messages.c.id, sa.bindparam("ids")), *_IN_SESSION), UUID)
_AMONG = Statement(
    sa.select(*_COLUMNS).where(among(messages.c.id, sa.bindparam("ids")), messages.c.owner_id == sa.bindparam("owner")),
    Message,
)
_BEHIND = Statement(
    sa.select(*_COLUMNS)
    .where(*_IN_SESSION, messages.c.position > sa.bindparam("after"))
    .order_by(messages.c.position)
    .limit(sa.bindparam("row_limit", type_=sa.Integer)),
    Message,
)
_UPDATE = Statement(
    sa.update(messages)
    .where(*_MINE)
    .values(
        role=sa.bindparam("role"),
        content=sa.bindparam("content"),
        search_text=sa.bindparam("search_text"),
        metadata=sa.bindparam("metadata", type_=messages.c.metadata.type),
        tool_calls=sa.bindparam("tool_calls"),
        updated_at=sa.bindparam("updated_at"),
        row_version=messages.c.row_version + 1,
    )
    .returning(*_COLUMNS),
    Message,
)
_REPARENT: Statement[None] = Statement(
    sa.update(messages)
    .where(messages.c.parent_message_id == sa.bindparam("message_id"))
    .values(parent_message_id=sa.bindparam("new_parent"), row_version=messages.c.row_version + 1)
)
_PLACE = Statement(
    sa.update(messages)
    .where(messages.c.id == sa.bindparam("message_id"))
    .values(
        position=sa.bindparam("position"),
        parent_message_id=sa.func.coalesce(_parent, messages.c.parent_message_id),
        row_version=messages.c.row_version + 1,
    )
    .returning(*_COLUMNS),
    Message,
)
_DELETE: Statement[None] = Statement(sa.delete(messages).where(*_MINE))

_read = [messages.c.id, messages.c.parent_message_id, messages.c.role, messages.c.content]
_branch = (
    # By their distance: a message that waited for its turn has moved behind others.
    sa.select(*_read, sa.literal_column("0").label("distance"))
    .where(messages.c.id == sa.bindparam("message_id"))
    .cte("branch", recursive=True)
)
_branch = _branch.union_all(
    sa.select(*_read, _branch.c.distance + 1).where(messages.c.id == _branch.c.parent_message_id)
)
_BRANCH = Statement(
    sa.select(_branch.c.role, _branch.c.content).order_by(_branch.c.distance).limit(BRANCH_LENGTH), HistoryEntry
)


async def get(connection: Reader, owner: str, message_id: UUID, *, for_update: bool = False) -> Message | None:
    statement = _GET_FOR_UPDATE if for_update else _GET
    return await connection.first(statement, message_id=message_id, owner=owner)


async def is_in_session(connection: Connection, owner: str, session_id: UUID, message_id: UUID) -> bool:
    found = await connection.first(_HAS, owner=owner, session_id=session_id, message_id=message_id)
    return found == 1


async def insert(connection: Connection, owner: str, message: Message) -> Message:
    """Without a parent the message follows the newest of its session, whose row the caller has locked."""
    stored = await connection.first(_INSERT, **_values(owner, message))
    assert stored is not None  # noqa: S101  # INSERT … RETURNING answers the row or raises
    return stored


async def insert_all(connection: Connection, owner: str, made: Sequence[Message]) -> None:
    """Messages that have their parents, in an order in which each stands behind its own."""
    await connection.many(_INSERT_ALL, [_values(owner, message) for message in made])


def _values(owner: str, message: Message) -> dict[str, Any]:
    own = {"owner_id": owner, "owner": owner, "search_text": searchable(fold(message.content))}
    return msgspec.structs.asdict(message) | own


async def newest(connection: Connection, owner: str, session_id: UUID) -> UUID | None:
    return await connection.first(_NEWEST, owner=owner, session_id=session_id)


async def those_in_session(connection: Connection, owner: str, session_id: UUID, ids: Sequence[UUID]) -> set[UUID]:
    return set(await connection.all(_HAVE, owner=owner, session_id=session_id, ids=list(ids)))


async def get_all(reader: Reader, owner: str, ids: Sequence[UUID]) -> dict[UUID, Message]:
    """Those of the messages that there are, by id."""
    rows = await reader.all(_AMONG, owner=owner, ids=list(ids)) if ids else []
    return {message.id: message for message in rows}


async def behind(reader: Reader, owner: str, session_id: UUID, position: int, limit: int) -> list[Message]:
    """The messages of a session behind a position, in order."""
    return await reader.all(_BEHIND, owner=owner, session_id=session_id, after=position, row_limit=limit)


async def update(connection: Connection, owner: str, message: Message) -> Message | None:
    return await connection.first(
        _UPDATE,
        message_id=message.id,
        owner=owner,
        role=message.role,
        content=message.content,
        search_text=searchable(fold(message.content)),
        metadata=message.metadata,
        tool_calls=message.tool_calls,
        updated_at=message.updated_at,
    )


async def delete(connection: Connection, owner: str, message: Message) -> None:
    """Removes the message; its replies follow its parent."""
    await connection.run(_REPARENT, message_id=message.id, new_parent=message.parent_message_id)
    await connection.run(_DELETE, message_id=message.id, owner=owner)


async def place(connection: Connection, message_id: UUID, position: int | None, parent: UUID | None) -> Message | None:
    """Moves a message to a position, behind another one where `parent` names it."""
    return await connection.first(_PLACE, message_id=message_id, position=position, parent_message_id=parent)


async def branch(connection: Connection, message_id: UUID) -> list[HistoryEntry]:
    """The message and its ancestors, oldest first; at most the newest 1,000."""
    entries = await connection.all(_BRANCH, message_id=message_id)
    return entries[::-1]
