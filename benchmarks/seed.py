"""The same 100 owners of 100 sessions each, the newest with 20 messages, for every application."""

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from ai_agent.domain.api_keys import CreateApiKey
from ai_agent.domain.audit import Actor
from ai_agent.domain.identity import OPERATOR, Scope
from ai_agent.security.api_keys import KeyHasher
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.services.paging import Pager
from ai_agent.storage.engine import create_database, sqlite_path
from ai_agent.storage.keyset import CursorCodec
from ai_agent.storage.statements import to_sqlite

OWNERS = [f"user-{number}" for number in range(100)]
TITLE = "bench"
"""The title of the sessions that a run makes, by which they are removed again."""
MIDDLE = 50
"""The list is read from behind this many of an owner's 100 sessions."""

_START = datetime(2026, 1, 1, tzinfo=UTC)

_REFERENCE_SCHEMA = """
CREATE TABLE sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id text NOT NULL,
    title text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    message_count int NOT NULL DEFAULT 0,
    last_activity timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sessions_user_keyset ON sessions (user_id, last_activity DESC, id DESC);
CREATE TABLE messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id text NOT NULL,
    session_id uuid NOT NULL REFERENCES sessions (id),
    role text NOT NULL,
    content text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    tool_calls jsonb NOT NULL DEFAULT '[]',
    parent_message_id uuid,
    agent_id uuid,
    execution_id uuid,
    position int NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (session_id, position)
);
"""


class SeededSession(msgspec.Struct, frozen=True):
    id: UUID
    user_id: str
    title: str
    metadata: str
    message_count: int
    last_activity: datetime
    created_at: datetime
    updated_at: datetime


@cache
def sessions() -> tuple[SeededSession, ...]:
    return tuple(_session(number) for number in range(1, 10_001))


def _session(number: int) -> SeededSession:
    at = _START + number * timedelta(seconds=37)
    metadata = {"model": "gpt-x", "tags": ["a", "b", "c"], "temperature": 0.7, "n": number}
    return SeededSession(
        id=UUID(hashlib.md5(f"s{number}".encode()).hexdigest()),
        user_id=OWNERS[number % len(OWNERS)],
        title=f"Session number {number}",
        metadata=msgspec.json.encode(metadata).decode(),
        message_count=20,
        last_activity=at,
        created_at=at - timedelta(days=1),
        updated_at=at,
    )


@cache
def newest_first(owner: str) -> list[SeededSession]:
    return [session for session in reversed(sessions()) if session.user_id == owner]


class SeededMessage(msgspec.Struct, frozen=True):
    id: UUID
    session_id: UUID
    role: str
    content: str
    metadata: str
    tool_calls: str
    parent_message_id: UUID | None
    position: int
    created_at: datetime
    updated_at: datetime


def messages() -> Iterator[tuple[str, SeededMessage]]:
    """Twenty of the newest session of each owner, with their owner."""
    for owner in OWNERS:
        session, parent = newest_first(owner)[0], None
        for position in range(1, 21):
            identity = UUID(hashlib.md5(f"{session.id}{position}".encode()).hexdigest())
            role, at = ("user", "assistant")[position % 2], session.created_at
            content = f"Message {position}: " + "what a person or a model says in a sentence or two. " * 3
            yield owner, SeededMessage(identity, session.id, role, content, "{}", "[]", parent, position, at, at)
            parent = identity


async def create_postgres_database(server_url: str, name: str) -> str:
    await execute(server_url, f"CREATE DATABASE {name}")
    return server_url.rpartition("/")[0] + f"/{name}"


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def seed_reference(url: str) -> None:
    await execute(url, _REFERENCE_SCHEMA)
    rows = [msgspec.structs.astuple(session) for session in sessions()]
    await _copy(url, "sessions", rows, SeededSession.__struct_fields__)
    await _copy(url, "messages", _messages(), ("user_id", *SeededMessage.__struct_fields__))


def _messages() -> list[tuple[Any, ...]]:
    return [(owner, *msgspec.structs.astuple(message)) for owner, message in messages()]


async def _copy(url: str, table: str, rows: list[tuple[Any, ...]], columns: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(url)
    await connection.copy_records_to_table(table, records=rows, columns=columns)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def upgrade(url: str, folder: Path) -> None:
    """Brings an empty database of ours to its schema."""
    environment = own_environment(AI_AGENT_DATABASE_URL=url, AI_AGENT_DATA_DIR=str(folder))
    command = [sys.executable, "-m", "ai_agent", "db", "upgrade"]
    subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def own_environment(**settings: str) -> dict[str, str]:
    """The environment without the user's own settings of the server, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AI_AGENT_")}
    return kept | settings


async def seed_ours(url: str, folder: Path) -> None:
    """A database of ours, PostgreSQL or SQLite, with the same sessions."""
    await asyncio.to_thread(upgrade, url, folder)
    columns = ("owner_id", *SeededSession.__struct_fields__)
    rows = [(session.user_id, *msgspec.structs.astuple(session)) for session in sessions()]
    if (path := sqlite_path(url)) is None:
        await _copy(url, "sessions", rows, columns)
        await _copy(url, "messages", _messages(), ("owner_id", *SeededMessage.__struct_fields__))
        return
    places = ", ".join("?" * len(columns))
    with sqlite3.connect(path) as connection:
        stored = ([to_sqlite(value) for value in row] for row in rows)
        connection.executemany(f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({places})", stored)
        connection.execute("ANALYZE")
    connection.close()


async def create_keys(url: str, secret_key: str) -> dict[str, str]:
    """An API key for each owner."""
    database = create_database(url, pool_size=1, statement_timeout=10)
    await database.open()
    service = ApiKeyService(database, KeyHasher(secret_key), "production", Pager(database, CursorCodec(secret_key)))
    wanted = CreateApiKey(TITLE, [Scope.SESSIONS_READ, Scope.SESSIONS_WRITE])
    made = {}
    for owner in OWNERS:
        wanted.owner_id = owner
        made[owner] = await service.create(OPERATOR, Actor("benchmark"), wanted)
    await database.close()
    return {owner: one.key for owner, one in made.items()}
