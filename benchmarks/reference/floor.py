"""The floor: bare ASGI, asyncpg and msgspec. No authentication, no log, no limits; the user is the header X-User.

A server in Python that asks PostgreSQL once per request can hardly be cheaper.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import asyncpg
import msgspec

from benchmarks.reference.settings import DATABASE_URL, POOL_SIZE

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

COLUMNS = "id, user_id, title, metadata, message_count, last_activity, created_at, updated_at"
GET = f"SELECT {COLUMNS} FROM sessions WHERE id = $1 AND user_id = $2"
LIST = (
    f"SELECT {COLUMNS} FROM sessions WHERE user_id = $1 AND (last_activity, id) < ($2, $3) "
    "ORDER BY last_activity DESC, id DESC LIMIT 20"
)
MESSAGE_COLUMNS = (
    "id, session_id, role, content, metadata, tool_calls, parent_message_id, agent_id, execution_id, position, "
    "created_at, updated_at"
)
MESSAGES = (
    f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = $1 AND user_id = $2 ORDER BY position, id LIMIT 20"
)
POST = f"INSERT INTO sessions (user_id, title, metadata) VALUES ($1, $2, $3) RETURNING {COLUMNS}"


class Session(msgspec.Struct):
    id: UUID
    user_id: str
    title: str
    metadata: msgspec.Raw
    message_count: int
    last_activity: datetime
    created_at: datetime
    updated_at: datetime


class Page(msgspec.Struct):
    items: list[Session]


class SessionMessage(msgspec.Struct):
    id: UUID
    session_id: UUID
    role: str
    content: str
    metadata: msgspec.Raw
    tool_calls: msgspec.Raw
    parent_message_id: UUID | None
    agent_id: UUID | None
    execution_id: UUID | None
    position: int
    created_at: datetime
    updated_at: datetime


class MessagePage(msgspec.Struct):
    items: list[SessionMessage]


class CreateSession(msgspec.Struct):
    title: str
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


encoder = msgspec.json.Encoder()
decoder = msgspec.json.Decoder(CreateSession)
pool: Any = None


def session(row: Any) -> Session:
    identity, user, title, metadata, count, last_activity, created_at, updated_at = row
    raw = msgspec.Raw(metadata.encode())
    return Session(identity, user, title, raw, count, last_activity, created_at, updated_at)


def session_message(row: Any) -> SessionMessage:
    identity, session_id, role, content, metadata, tool_calls, *others = row
    raw, calls = msgspec.Raw(metadata.encode()), msgspec.Raw(tool_calls.encode())
    return SessionMessage(identity, session_id, role, content, raw, calls, *others)


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    user = next(value for name, value in scope["headers"] if name == b"x-user").decode()
    path = scope["path"]
    if scope["method"] == "POST":
        wanted = decoder.decode(await body_of(receive))
        row = await pool.fetchrow(POST, user, wanted.title, bytes(wanted.metadata).decode())
        await answer(send, encoder.encode(session(row)), 201)
    elif path == "/sessions":
        query = dict(parse_qsl(scope["query_string"].decode()))
        rows = await pool.fetch(LIST, user, datetime.fromisoformat(query["before"]), UUID(query["before_id"]))
        await answer(send, encoder.encode(Page([session(row) for row in rows])))
    elif path.endswith("/messages"):
        session_id = path.removeprefix("/sessions/").removesuffix("/messages")
        rows = await pool.fetch(MESSAGES, UUID(session_id), user)
        await answer(send, encoder.encode(MessagePage([session_message(row) for row in rows])))
    else:
        row = await pool.fetchrow(GET, UUID(path.removeprefix("/sessions/")), user)
        await answer(send, encoder.encode(session(row)))


async def body_of(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Receive, send: Send) -> None:
    global pool
    await receive()
    pool = await asyncpg.create_pool(DATABASE_URL, min_size=POOL_SIZE, max_size=POOL_SIZE)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await pool.close()
    await send({"type": "lifespan.shutdown.complete"})
