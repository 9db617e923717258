"""The tree that the messages of a session make: ways from the root, siblings, copies of a branch."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.messages import Message
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import Id, Time, messages

ANCESTORS = 1000
REPLIES = 200
COPIED_AT_ONCE = 500


class Place(msgspec.Struct, frozen=True):
    """A message among those that follow the same parent."""

    id: UUID
    count: int
    index: int


class Node(msgspec.Struct, frozen=True):
    id: UUID
    parent_message_id: UUID | None


_COLUMNS = [messages.c[name] for name in (*Message.__struct_fields__, VERSION)]
_owned = messages.c.owner_id == sa.bindparam("owner")


def _way(*bounds: sa.ColumnElement[bool], longest: int | None) -> sa.CTE:
    """A message, at depth 0, and its ancestors."""
    way = (
        sa.select(messages.c.id, messages.c.parent_message_id, sa.literal_column("0").label("depth"))
        .where(messages.c.id == sa.bindparam("message_id"), _owned, *bounds)
        .cte("way", recursive=True)
    )
    up = sa.select(messages.c.id, messages.c.parent_message_id, way.c.depth + sa.literal_column("1"))
    up = up.where(messages.c.id == way.c.parent_message_id, _owned)
    return way.union_all(up if longest is None else up.where(way.c.depth < sa.literal_column(str(longest))))


def _way_statement() -> Statement[Message]:
    way = _way(longest=ANCESTORS)
    joined = sa.select(*_COLUMNS).join(way, way.c.id == messages.c.id)
    return Statement(joined.order_by(way.c.depth.desc()), Message)


def _branch_statement() -> Statement[Node]:
    way = _way(messages.c.session_id == sa.bindparam("session_id"), longest=None)
    return Statement(sa.select(way.c.id, way.c.parent_message_id).order_by(way.c.depth.desc()), Node)


def _places_statement() -> Statement[Place]:
    columns = (messages.c.id, messages.c.parent_message_id, messages.c.position)
    children = sa.select(*columns).where(among(messages.c.parent_message_id, sa.bindparam("parents")), _owned)
    roots = sa.select(*columns).where(
        messages.c.session_id == sa.bindparam("session_id"), messages.c.parent_message_id.is_(None), _owned
    )
    siblings = sa.union_all(children, roots).subquery("siblings")
    group: dict[str, Any] = {"partition_by": siblings.c.parent_message_id}
    numbered = sa.select(
        siblings.c.id,
        sa.func.count().over(**group).label("count"),
        (sa.func.row_number().over(**group, order_by=siblings.c.position) - sa.literal_column("1")).label("index"),
    ).subquery("numbered")
    return Statement(sa.select(*numbered.c).where(among(numbered.c.id, sa.bindparam("ids"))), Place)


def _copy_statement() -> Statement[None]:
    new: dict[str, Any] = {
        "id": ("new_id", Id),
        "session_id": ("new_session", Id),
        "parent_message_id": ("new_parent", Id),
        "position": ("new_position", sa.Integer),
        "created_at": ("at", Time),
        "updated_at": ("at", Time),
    }
    # The run that wrote a message belongs to the session where it ran: the copy names none.
    kept = ("owner_id", "role", "content", "search_text", "metadata", "tool_calls", "agent_id")
    values = [sa.cast(sa.bindparam(name, type_=kind), kind) for name, kind in new.values()]
    source = sa.select(*values, *(messages.c[name] for name in kept))
    source = source.where(messages.c.id == sa.bindparam("message_id"), _owned)
    return Statement(sa.insert(messages).from_select([*new, *kept], source, include_defaults=False))


_WAY = _way_statement()
_BRANCH = _branch_statement()
_PLACES = _places_statement()
_COPY = _copy_statement()
_REPLIES = Statement(
    sa.select(*_COLUMNS)
    .where(messages.c.parent_message_id == sa.bindparam("message_id"), _owned)
    .order_by(messages.c.position)
    .limit(sa.literal_column(str(REPLIES + 1))),
    Message,
)


async def way_to(reader: Reader, owner: str, message_id: UUID) -> list[Message]:
    """The nearest 1,000 ancestors, first the one nearest to the root, and the message; empty when there is none."""
    return await reader.all(_WAY, message_id=message_id, owner=owner)


async def replies(reader: Reader, owner: str, message_id: UUID) -> list[Message]:
    """The first 200, and one more when there are more."""
    return await reader.all(_REPLIES, message_id=message_id, owner=owner)


async def places(reader: Reader, owner: str, session_id: UUID, shown: Sequence[Message]) -> dict[UUID, Place]:
    """Of messages of one session, by id."""
    parents = {message.parent_message_id for message in shown} - {None}
    found = await reader.all(
        _PLACES, owner=owner, session_id=session_id, parents=list(parents), ids=[message.id for message in shown]
    )
    return {place.id: place for place in found}


async def branch(connection: Connection, owner: str, session_id: UUID, message_id: UUID) -> list[Node]:
    """From the root to the message; empty when the message is not in the session."""
    return await connection.all(_BRANCH, owner=owner, session_id=session_id, message_id=message_id)


async def copy(
    connection: Connection, owner: str, nodes: Sequence[Node], session_id: UUID, new_ids: Sequence[UUID], at: datetime
) -> None:
    """Copies a branch into another session, at the positions from 1. What is copied does not leave the database."""
    rows = [
        {
            "owner": owner,
            "message_id": node.id,
            "new_id": new_id,
            "new_parent": new_ids[number - 1] if number else None,
            "new_session": session_id,
            "new_position": number + 1,
            "at": at,
        }
        for number, (node, new_id) in enumerate(zip(nodes, new_ids, strict=True))
    ]
    for start in range(0, len(rows), COPIED_AT_ONCE):
        await connection.many(_COPY, rows[start : start + COPIED_AT_ONCE])
