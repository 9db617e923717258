"""Two nodes of the API on PostgreSQL and Redis, and callers of their own for each test."""

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.conftest import Server, create_database
from tests.servers import ValkeyServer

Nodes = tuple[Server, Server]


@pytest.fixture(scope="module")
def nodes(postgres_url: str, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder, database = tmp_path_factory.mktemp("nodes"), create_database(postgres_url)
    settings = {"AI_AGENT_REDIS_URL": valkey.url, "AI_AGENT_WS_MAX_CONNECTIONS_PER_USER": "4"}
    here, there = (Server(database, folder, "--no-worker", **settings) for _ in range(2))
    yield here, there
    for node in (here, there):
        if node.process.poll() is None:
            node.stop()


class Somebody(NamedTuple):
    """An owner, and a key of that one."""

    owner: str
    key: str
    key_id: str


def somebody(server: Server, *scopes: str, owner: str = "", **fields: Any) -> Somebody:
    owner = owner or f"owner-{uuid.uuid4().hex[:12]}"
    wanted = {"name": "key", "owner_id": owner, "scopes": scopes or ["sessions:read", "sessions:write"], **fields}
    with server.client() as admin:
        made = admin.post("/admin/keys", json=wanted)
    assert made.status_code == 201, made.text
    return Somebody(owner, made.json()["key"], made.json()["id"])


def ticket(server: Server, key: str) -> str:
    with server.client(key) as caller:
        return str(caller.post("/auth/ws-ticket").json()["ticket"])


def tokens(server: Server, key: str) -> dict[str, Any]:
    with server.client(key) as caller:
        return dict(caller.post("/auth/token").json())
