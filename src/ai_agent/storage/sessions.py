"""Sessions of an owner."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.fields import StoredJson
from ai_agent.domain.search import fold
from ai_agent.domain.sessions import Session, SessionStatus
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import among, json_member
from ai_agent.storage.keyset import Listing, Varying, containing
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import executions, messages, sessions


def _metadata_parameters(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    keys = {f"key_{number}": key for number, (key, _) in enumerate(pairs)}
    return keys | {f"value_{number}": value for number, (_, value) in enumerate(pairs)}


def _has_members(count: int) -> sa.ColumnElement[bool]:
    """Each of the metadata's members of these names has its value."""
    return sa.and_(
        *(
            json_member(sessions.c.metadata, sa.bindparam(f"key_{number}", type_=sa.Text))
            == sa.bindparam(f"value_{number}")
            for number in range(count)
        )
    )


LIST = Listing(
    sessions,
    Session,
    {
        "search": containing(sessions.c.search_title),
        "metadata": Varying(len, _has_members, _metadata_parameters),
    },
)

_COLUMNS = [sessions.c[name] for name in (*Session.__struct_fields__, VERSION)]
_MINE = (sessions.c.id == sa.bindparam("session_id"), sessions.c.owner_id == sa.bindparam("owner"))
_GET = Statement(sa.select(*_COLUMNS).where(*_MINE), Session)
_GET_FOR_UPDATE = Statement(sa.select(*_COLUMNS).where(*_MINE).with_for_update(), Session)
INSERT: Statement[None] = Statement(
    sa.insert(sessions).values(
        {name: sa.bindparam(name) for name in [*Session.__struct_fields__, "owner_id", "search_title"]}
    )
)
_UPDATE = Statement(
    sa.update(sessions)
    .where(*_MINE)
    .values(
        user_id=sa.bindparam("user_id"),
        title=sa.bindparam("title"),
        search_title=sa.bindparam("search_title"),
        metadata=sa.bindparam("metadata", type_=sessions.c.metadata.type),
        updated_at=sa.bindparam("updated_at"),
        row_version=sessions.c.row_version + 1,
    )
    .returning(*_COLUMNS),
    Session,
)
_at = sa.bindparam("at", type_=sessions.c.last_activity.type)
# Who waited for the lock comes later with an earlier time.
_later = sa.case((sessions.c.last_activity < _at, _at), else_=sessions.c.last_activity)
_count = sa.bindparam("count", type_=sa.Integer)
_TAKE_POSITIONS = Statement(
    sa.update(sessions)
    .where(*_MINE)
    .values(
        message_count=sessions.c.message_count + _count,
        next_position=sessions.c.next_position + _count,
        last_activity=_later,
        row_version=sessions.c.row_version + 1,
    )
    .returning(sessions.c.next_position),
    int,
)
_TAKE_PLACE = Statement(
    sa.update(sessions)
    .where(sessions.c.id == sa.bindparam("session_id"))
    .values(next_position=sessions.c.next_position + 1)
    .returning(sessions.c.next_position),
    int,
)
_FORGET_MESSAGE: Statement[None] = Statement(
    sa.update(sessions)
    .where(*_MINE)
    .values(
        message_count=sessions.c.message_count - 1,
        last_activity=_later,
        row_version=sessions.c.row_version + 1,
    )
)
_MINE_AMONG = (among(sessions.c.id, sa.bindparam("ids")), sessions.c.owner_id == sa.bindparam("owner"))
# In one order, so that two of them never wait for each other.
_LOCK = Statement(sa.select(sessions.c.id).where(*_MINE_AMONG).order_by(sessions.c.id).with_for_update(), UUID)
_of_message = sa.select(messages.c.session_id).where(messages.c.id == sa.bindparam("message_id"))
_of_run = sa.select(executions.c.session_id).where(executions.c.id == sa.bindparam("execution_id"))
_LOCK_OF_MESSAGE, _LOCK_OF_RUN = (
    Statement(sa.select(sessions.c.id).where(sessions.c.id == one.scalar_subquery()).with_for_update(), UUID)
    for one in (_of_message, _of_run)
)
_DELETE_ALL: Statement[None] = Statement(sa.delete(sessions).where(*_MINE_AMONG))
_status = sa.bindparam("new_status", type_=sessions.c.status.type)
_SET_STATUS = Statement(
    sa.update(sessions)
    .where(sessions.c.id == sa.bindparam("session_id"), sessions.c.status != _status)
    .values(status=_status, row_version=sessions.c.row_version + 1)
    .returning(*_COLUMNS),
    Session,
)
_OWNER = Statement(sa.select(sessions.c.owner_id).where(sessions.c.id == sa.bindparam("session_id")), str)


async def get(connection: Reader, owner: str, session_id: UUID, *, for_update: bool = False) -> Session | None:
    statement = _GET_FOR_UPDATE if for_update else _GET
    return await connection.first(statement, session_id=session_id, owner=owner)


async def insert(connection: Connection, owner: str, session: Session) -> None:
    await connection.run(INSERT, **values(owner, session))


async def insert_all(connection: Connection, owner: str, made: Sequence[Session]) -> None:
    await connection.many(INSERT, [values(owner, session) for session in made])


def values(owner: str, session: Session) -> dict[str, Any]:
    """The parameters of INSERT."""
    return msgspec.structs.asdict(session) | {"owner_id": owner, "search_title": _folded(session.title)}


def _folded(title: str | None) -> str | None:
    return None if title is None else fold(title)


async def update(
    connection: Connection,
    owner: str,
    session_id: UUID,
    *,
    user_id: str | None,
    title: str | None,
    metadata: StoredJson,
    at: datetime,
) -> Session | None:
    return await connection.first(
        _UPDATE,
        session_id=session_id,
        owner=owner,
        user_id=user_id,
        title=title,
        search_title=_folded(title),
        metadata=metadata,
        updated_at=at,
    )


async def lock(connection: Connection, owner: str, session_ids: Sequence[UUID]) -> list[UUID]:
    """Those of the sessions that are the owner's, locked until the transaction ends."""
    return await connection.all(_LOCK, ids=list(session_ids), owner=owner)


async def lock_of_message(connection: Connection, message_id: UUID) -> None:
    """Locks the session of a message, so that what is told of the message has its place."""
    await connection.first(_LOCK_OF_MESSAGE, message_id=message_id)


async def lock_of_run(connection: Connection, execution_id: UUID) -> None:
    """As `lock_of_message`, of an execution."""
    await connection.first(_LOCK_OF_RUN, execution_id=execution_id)


async def delete_all(connection: Connection, owner: str, session_ids: Sequence[UUID]) -> None:
    await connection.run(_DELETE_ALL, ids=list(session_ids), owner=owner)


async def take_position(connection: Connection, owner: str, session_id: UUID, at: datetime) -> int | None:
    """Counts one message more and gives its position, from 1; locks the session until the transaction ends."""
    return await take_positions(connection, owner, session_id, at, 1)


async def take_positions(connection: Connection, owner: str, session_id: UUID, at: datetime, count: int) -> int | None:
    """Counts so many messages more and gives the first one's position; None when the session is not the owner's."""
    last = await connection.first(_TAKE_POSITIONS, session_id=session_id, owner=owner, at=at, count=count)
    return None if last is None else last - count + 1


async def take_place(connection: Connection, session_id: UUID) -> int | None:
    """The next position, for a message that moves to the end."""
    return await connection.first(_TAKE_PLACE, session_id=session_id)


async def forget_message(connection: Connection, owner: str, session_id: UUID, at: datetime) -> None:
    await connection.run(_FORGET_MESSAGE, session_id=session_id, owner=owner, at=at)


async def set_status(connection: Connection, session_id: UUID, status: SessionStatus) -> Session | None:
    """The session when its status was another one."""
    return await connection.first(_SET_STATUS, session_id=session_id, new_status=status)


async def owner(reader: Reader, session_id: UUID) -> str | None:
    """Whose it is; None when it is gone."""
    return await reader.first(_OWNER, session_id=session_id)
