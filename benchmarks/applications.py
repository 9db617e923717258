"""The servers that are compared: how each is started, and what it is asked."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import httpx
import jwt
import msgspec

from benchmarks import seed
from benchmarks.processes import ROOT, Server
from tests.servers import free_port

MODES = ("get", "list", "messages", "post")
PAIRS = 2_000
POOL_SIZE = "20"
SECRET_KEY = "a-secret-key-for-benchmarks-of-40-letters"

_BODY = msgspec.json.encode(
    {"title": seed.TITLE, "metadata": {"model": "gpt-x", "tags": ["a", "b", "c"], "temperature": 0.7}}
)


class Application(msgspec.Struct, frozen=True):
    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    """Where the command runs."""
    path: str
    """Of the sessions."""
    tokens: dict[str, str]
    """What each owner authenticates with."""
    query_of: Callable[["Application", Server, str], str]
    """The query of an owner's list, from its middle."""

    def start(self, logs: Path) -> Server:
        port = free_port()
        command = [*self.command, "--port", str(port)]
        log = logs / f"{self.name}.log"
        return Server(command, port=port, environment=self.environment, folder=self.folder, log=log)

    def headers(self, owner: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[owner]}", "X-User": owner}

    def client(self, server: Server, owner: str) -> httpx.Client:
        url = f"http://127.0.0.1:{server.port}"
        return httpx.Client(base_url=url, headers=self.headers(owner), timeout=30, trust_env=False)


def reference(name: str, module: str, database_url: str, redis_url: str) -> Application:
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    environment = seed.own_environment(
        BENCH_DATABASE_URL=database_url,
        BENCH_REDIS_URL=redis_url,
        BENCH_JWT_SECRET=SECRET_KEY,
        BENCH_POOL_SIZE=POOL_SIZE,
    )
    return Application(
        name=name,
        command=[sys.executable, "-m", "uvicorn", f"benchmarks.reference.{module}:app", *options],
        environment=environment,
        folder=ROOT,
        path="/sessions",
        tokens={owner: jwt.encode({"sub": owner, "scope": "user"}, SECRET_KEY) for owner in seed.OWNERS},
        query_of=_position,
    )


NEVER_MET = {
    f"AI_AGENT_RATE_LIMIT_{name}": "100000000/minute"
    for name in ("TIER_AUTHENTICATED", "READ", "SESSION_CREATE", "AUTH_FAILURE")
}
"""Limits that are all counted, and that nobody reaches."""


def ours(name: str, database_url: str, keys: dict[str, str], folder: Path, **settings: str) -> Application:
    """In production, with everything on, its log thrown away behind the server."""
    environment = seed.own_environment(
        AI_AGENT_ENVIRONMENT="production",
        AI_AGENT_DATABASE_URL=database_url,
        AI_AGENT_DB_POOL_SIZE=POOL_SIZE,
        AI_AGENT_DATA_DIR=str(folder),
        AI_AGENT_SECRET_KEY=SECRET_KEY,
        AI_AGENT_LOG_FORMAT="json",
        AI_AGENT_LOG_LEVEL="info",
        **NEVER_MET,
        **settings,
    )
    return Application(
        name=name,
        command=[sys.executable, "-m", "ai_agent", "serve"],
        environment=environment,
        folder=folder,
        path="/api/v1/sessions",
        tokens=keys,
        query_of=_cursor,
    )


def _position(_: Application, __: Server, owner: str) -> str:
    last = seed.newest_first(owner)[seed.MIDDLE - 1]
    return urlencode({"limit": 20, "before": last.last_activity.isoformat(), "before_id": last.id})


def _cursor(application: Application, server: Server, owner: str) -> str:
    with application.client(server, owner) as http:
        page = http.get(application.path, params={"limit": seed.MIDDLE}).raise_for_status().json()
    return urlencode({"limit": 20, "cursor": page["next_cursor"]})


def requests(application: Application, server: Server, mode: str) -> list[bytes]:
    """The requests of a mode, ready to be sent: 2 000 sessions of 100 owners, or one list for each owner."""
    owners = seed.OWNERS
    if mode == "get":
        pairs = random.Random(0).sample(seed.sessions(), PAIRS)
        return [_request(application, server, pair.user_id, "GET", f"/{pair.id}") for pair in pairs]
    if mode == "list":
        queries = {owner: application.query_of(application, server, owner) for owner in owners}
        return [_request(application, server, owner, "GET", f"?{query}") for owner, query in queries.items()]
    if mode == "messages":
        return [
            _request(application, server, owner, "GET", f"/{seed.newest_first(owner)[0].id}/messages?limit=20")
            for owner in owners
        ]
    return [_request(application, server, owner, "POST", "", _BODY) for owner in owners]


def _request(
    application: Application, server: Server, owner: str, method: str, target: str, body: bytes | None = None
) -> bytes:
    headers = {"Host": f"127.0.0.1:{server.port}"} | application.headers(owner)
    if body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{method} {application.path}{target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def check(application: Application, server: Server) -> None:
    """Raises RuntimeError when an application does not answer what all must."""
    owner = seed.OWNERS[7]
    wanted = seed.newest_first(owner)
    with application.client(server, owner) as http:
        one = http.get(f"{application.path}/{wanted[0].id}")
        page = http.get(f"{application.path}?{application.query_of(application, server, owner)}")
        messages = http.get(f"{application.path}/{wanted[0].id}/messages?limit=20")
        made = http.post(application.path, content=_BODY, headers={"Content-Type": "application/json"})
    expected = [str(session.id) for session in wanted[seed.MIDDLE : seed.MIDDLE + 20]]
    same = (
        one.status_code == 200
        and one.json()["metadata"] == msgspec.json.decode(wanted[0].metadata)
        and [item["id"] for item in page.json()["items"]] == expected
        and len(messages.json()["items"]) == 20
        and made.status_code == 201
        and made.json()["title"] == seed.TITLE
    )
    if not same:
        raise RuntimeError(f"{application.name} answers differently: {one.text} {page.text[:300]} {made.text}")
