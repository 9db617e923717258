"""Sessions of an owner."""

from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.fields import StoredJson
from ai_agent.domain.sessions import Session, SessionStatus
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.keyset import Listing
from ai_agent.storage.statements import VERSION, Statement
from ai_agent.storage.tables import sessions

LIST = Listing(sessions, Session)

_COLUMNS = [sessions.c[name] for name in (*Session.__struct_fields__, VERSION)]
_MINE = (sessions.c.id == sa.bindparam("session_id"), sessions.c.owner_id == sa.bindparam("owner"))
_GET = Statement(sa.select(*_COLUMNS).where(*_MINE), Session)
_GET_FOR_UPDATE = Statement(sa.select(*_COLUMNS).where(*_MINE).with_for_update(), Session)
INSERT: Statement[None] = Statement(
    sa.insert(sessions).values({name: sa.bindparam(name) for name in [*Session.__struct_fields__, "owner_id"]})
)
_UPDATE = Statement(
    sa.update(sessions)
    .where(*_MINE)
    .values(
        user_id=sa.bindparam("user_id"),
        title=sa.bindparam("title"),
        metadata=sa.bindparam("metadata", type_=sessions.c.metadata.type),
        updated_at=sa.bindparam("updated_at"),
        row_version=sessions.c.row_version + 1,
    )
    .returning(*_COLUMNS),
    Session,
)
_DELETE: Statement[None] = Statement(sa.delete(sessions).where(*_MINE))
_TAKE_POSITION = Statement(
    sa.update(sessions)
    .where(*_MINE)
    .values(
        message_count=sessions.c.message_count + 1,
        next_position=sessions.c.next_position + 1,
        last_activity=sa.bindparam("at"),
        row_version=sessions.c.row_version + 1,
    )
    .returning(sessions.c.next_position),
    int,
)
_FORGET_MESSAGE: Statement[None] = Statement(
    sa.update(sessions)
    .where(*_MINE)
    .values(
        message_count=sessions.c.message_count - 1,
        last_activity=sa.bindparam("at"),
        row_version=sessions.c.row_version + 1,
    )
)
_SET_STATUS: Statement[None] = Statement(
    sa.update(sessions)
    .where(sessions.c.id == sa.bindparam("session_id"))
    .values(status=sa.bindparam("new_status"), row_version=sessions.c.row_version + 1)
)


async def get(connection: Reader, owner: str, session_id: UUID, *, for_update: bool = False) -> Session | None:
    statement = _GET_FOR_UPDATE if for_update else _GET
    return await connection.first(statement, session_id=session_id, owner=owner)


async def insert(connection: Connection, owner: str, session: Session) -> None:
    await connection.run(INSERT, **values(owner, session))


def values(owner: str, session: Session) -> dict[str, object]:
    """The parameters of INSERT."""
    return {**msgspec.structs.asdict(session), "owner_id": owner}


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
        _UPDATE, session_id=session_id, owner=owner, user_id=user_id, title=title, metadata=metadata, updated_at=at
    )


async def delete(connection: Connection, owner: str, session_id: UUID) -> bool:
    return await connection.run(_DELETE, session_id=session_id, owner=owner) == 1


async def take_position(connection: Connection, owner: str, session_id: UUID, at: datetime) -> int | None:
    """Counts one message more and gives its position, from 1; locks the session until the transaction ends."""
    return await connection.first(_TAKE_POSITION, session_id=session_id, owner=owner, at=at)


async def forget_message(connection: Connection, owner: str, session_id: UUID, at: datetime) -> None:
    await connection.run(_FORGET_MESSAGE, session_id=session_id, owner=owner, at=at)


async def set_status(connection: Connection, session_id: UUID, status: SessionStatus) -> None:
    await connection.run(_SET_STATUS, session_id=session_id, new_status=status)
