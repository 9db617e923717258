"""Who may do what: keys, scopes and ownership, over every operation there is."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from litestar.routes import HTTPRoute

from ai_agent.api.guards import SCOPE
from ai_agent.app import create_app
from ai_agent.domain.identity import Scope
from ai_agent.security.api_keys import generate
from ai_agent.settings import load_settings
from tests.conftest import KEY, SECRET, Server
from tests.integration.test_agents import execute

MCP_SERVER = {"name": "x", "transport": "streamable_http", "endpoint": "https://mcp.invalid", "enabled": False}

BODIES: dict[str, object] = {
    "POST /admin/keys": {"name": "x", "scopes": ["agents:read"]},
    "POST /agents": {"name": "x"},
    "PUT /agents/{agent_id}": {"name": "x"},
    "POST /tools": {"name": "current_time", "kind": "builtin"},
    "PUT /tools/{tool_id}": {"name": "calculator", "kind": "builtin"},
    "POST /tools/{tool_id}/invoke": {"arguments": {"expression": "1"}},
    "POST /mcp-servers": MCP_SERVER,
    "POST /mcp-servers/test": MCP_SERVER,
    "PUT /mcp-servers/{mcp_server_id}": MCP_SERVER,
    "POST /sessions/bulk-create": [{}],
    "POST /sessions/bulk-delete": [str(uuid.uuid4())],
    "DELETE /sessions/bulk-delete": [str(uuid.uuid4())],
    "POST /sessions/{session_id}/messages": {"content": "x"},
    "POST /sessions/{session_id}/messages/bulk-create": [{"content": "x"}],
    "PUT /messages/{message_id}": {"content": "x"},
    "POST /agents/{agent_id}/execute": {"message": "x"},
    "POST /agents/{agent_id}/execute/stream": {"message": "x"},
    "POST /agents/{agent_id}/executions": {"message": "x"},
    "POST /executions/{execution_id}/approvals/{call_id}": {"decision": "reject"},
    "POST /executions/{execution_id}/tool-results/{call_id}": {"output": 1},
    "POST /notifications": {"to": {"user_id": "admin"}, "title": "x"},
    "POST /topics/{name}/events": {"type": "x"},
    "PUT /admin/rate-limits/{user_id}": {"tier": "premium"},
    "POST /admin/queues/dead-letters/replay": {},
    "POST /admin/queues/dead-letters/purge": {},
}


def operations() -> list[tuple[str, str, Scope | None]]:
    """Method, path and scope of every operation, read from the application itself; "" is whatever scope."""
    app = create_app(load_settings({"AI_AGENT_DATABASE_URL": "sqlite:///unused.db", "AI_AGENT_SECRET_KEY": SECRET}))
    return sorted(
        (method, re.sub(r":\w+}", "}", route.path.removeprefix("/api/v1")), handler.opt[SCOPE])
        for route in app.routes
        if isinstance(route, HTTPRoute) and route.path.startswith("/api/v1")
        for method, (handler, _) in route.route_handler_map.items()
        if method != "OPTIONS"
    )


GUARDED = [(method, path, scope) for method, path, scope in operations() if scope]
OWNED = [(method, path) for method, path, scope in GUARDED if scope is not Scope.ADMIN]
READ = [path for method, path in OWNED if method == "GET"]
IDENTIFIED = [(method, path) for method, path, scope in operations() if scope == ""]


def make_key(server: Server, owner: str, *scopes: str) -> dict[str, Any]:
    with server.client() as api:
        made = api.post("/admin/keys", json={"name": "key", "owner_id": owner, "scopes": scopes})
    return dict(made.raise_for_status().json())


class Caller:
    def __init__(self, server: Server, owner: str, *scopes: str):
        self.key = make_key(server, owner, *scopes)
        self.http = server.client(self.key["key"])

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def call(self, method: str, path: str, ids: dict[str, str], **headers: str) -> httpx.Response:
        body = BODIES.get(f"{method} {path}", {})
        return self.http.request(method, path.format(**ids), json=body, headers=headers)


@pytest.fixture(scope="module")
def ids(server: Server, database_url: str) -> dict[str, str]:
    """One resource of each kind, of the admin."""
    with server.client() as api:
        session = api.post("/sessions", json={}).json()["id"]
        message = api.post(f"/sessions/{session}/messages", json={"content": "xx"}).json()["id"]
        model = {"provider": "openai", "model": "m"}
        agent = api.post("/agents", json={"name": "matrix", "model_config": model}).json()["id"]
        body = {"message": "x", "callback_url": "https://receiver.invalid"}
        execution = api.post(f"/agents/{agent}/execute", json=body).json()["execution_id"]
        delivery = api.get(f"/executions/{execution}/deliveries").json()["items"][0]["id"]
        execute(database_url, "UPDATE webhook_deliveries SET status = 'failed', next_attempt_at = NULL")
        tool = api.post("/tools", json={"name": "calculator", "kind": "builtin"}).json()["id"]
        mcp_server = api.post("/mcp-servers", json=MCP_SERVER | {"name": "matrix"}).json()["id"]
        eid = api.post("/notifications", json=BODIES["POST /notifications"]).json()["eid"]
        deadline = time.monotonic() + 5
        while api.get(f"/events/{eid}/delivery").json()["status"] == "accepted" and time.monotonic() < deadline:
            time.sleep(0.02)
        key = new_key(api)
        api.put("/admin/rate-limits/somebody", json=BODIES["PUT /admin/rate-limits/{user_id}"])
    ids = {"session_id": session, "message_id": message, "agent_id": agent, "execution_id": execution, "key_id": key}
    ids |= {"connection_id": str(uuid.uuid4()), "eid": eid, "name": "news"}
    ids |= {"mcp_server_id": mcp_server, "user_id": "somebody"}
    return ids | {"number": "1", "delivery_id": delivery, "tool_id": tool, "call_id": "none"}


def new_key(api: httpx.Client) -> str:
    return str(api.post("/admin/keys", json=BODIES["POST /admin/keys"]).json()["id"])


@pytest.fixture(scope="module")
def stranger(server: Server) -> Iterator[Caller]:
    with Caller(server, "stranger", *(scope for scope in Scope if scope is not Scope.ADMIN)) as caller:
        yield caller


@pytest.fixture(scope="module")
def powerless(server: Server) -> Iterator[dict[str, Caller]]:
    """Callers of the admin's own subject that have every scope but one."""
    scopes = {scope for _, _, scope in GUARDED}
    everything = set(Scope) - {Scope.ADMIN}
    with ExitStack() as stack:
        callers = {scope: Caller(server, "admin", *sorted(everything - {scope})) for scope in scopes}
        yield {scope: stack.enter_context(caller) for scope, caller in callers.items()}


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
def test_each_operation_needs_a_key_and_its_scope(
    server: Server, ids: dict[str, str], powerless: dict[str, Caller], method: str, path: str, scope: Scope
) -> None:
    with server.client(key="") as nobody:
        assert nobody.request(method, path.format(**ids)).status_code == 401
    refused = powerless[scope].call(method, path, ids)
    assert (refused.status_code, refused.json()["code"]) == (403, "authorization_error")
    assert refused.json()["details"] == {"scope": scope}


@pytest.mark.parametrize(("method", "path"), IDENTIFIED)
def test_whoever_is_known_may_ask_who_he_is_and_get_tokens(server: Server, method: str, path: str) -> None:
    with server.client(key="") as nobody:
        assert nobody.request(method, path).status_code == 401
    for scope in (Scope.TOPICS_READ, Scope.ADMIN):
        with Caller(server, "anybody", scope) as caller:
            assert caller.http.request(method, path).status_code == 200


@pytest.fixture(scope="module")
def barely(server: Server) -> Iterator[dict[str, Caller]]:
    """Callers of the admin's own subject that have one scope only."""
    with ExitStack() as stack:
        callers = {scope: Caller(server, "admin", scope) for scope in {scope for _, _, scope in GUARDED}}
        yield {scope: stack.enter_context(caller) for scope, caller in callers.items()}


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
def test_the_owner_needs_no_more_than_the_operations_scope(
    ids: dict[str, str], barely: dict[str, Caller], method: str, path: str, scope: Scope
) -> None:
    """A precondition that does not hold keeps what others test with: it is looked at behind all that could refuse."""
    if "key_id" in path:
        ids = ids | {"key_id": new_key(barely[scope].http)}
    answer = barely[scope].call(method, path, ids, **{"If-Match": '"999"', "Accept": "application/json"})
    if "bulk-delete" in path:
        assert answer.json()["details"] == {"ids": BODIES[f"{method} {path}"]}
    elif path == "/messages":
        assert [error["field"] for error in answer.json()["validation_errors"]] == ["search"]
    elif "connection_id" in path:
        assert answer.json()["message"] == "Connection not found"
    elif "call_id" in path:
        assert answer.json()["message"] == "The execution has no such tool call"
    elif path.endswith("/sync"):
        assert answer.json()["details"] == {"status": "disabled"}
    elif path.endswith("/retry"):
        assert answer.json()["details"] == {"status": "completed"}
    elif method in {"PUT", "PATCH", "DELETE"} and "key_id" not in path and "user_id" not in path:
        assert answer.status_code == 412
    else:
        assert answer.status_code < 300, answer.text


@pytest.fixture(scope="module")
def other_admin(server: Server) -> Iterator[Caller]:
    with Caller(server, "other-admin", Scope.ADMIN) as caller:
        yield caller


@pytest.mark.parametrize("who", ["stranger", "other_admin"])
@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, path in OWNED if "_id}" in path or "{eid}" in path]
)
def test_another_owners_id_is_not_found(
    request: pytest.FixtureRequest, server: Server, ids: dict[str, str], who: str, method: str, path: str
) -> None:
    caller: Caller = request.getfixturevalue(who)
    refused = caller.call(method, path, ids)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    with server.client() as api:
        for kind in ("session", "message", "agent", "execution", "tool"):
            assert api.get(f"/{kind}s/{ids[f'{kind}_id']}").status_code == 200


def read(caller: httpx.Client, path: str, ids: dict[str, str], **params: str) -> httpx.Response:
    search = {"search": "xx"} if path == "/messages" else {}
    return caller.get(path.format(**ids), params=search | params, headers={"Accept": "application/json"})


@pytest.mark.parametrize("path", READ)
def test_an_admin_reads_what_another_owner_reads(
    server: Server, ids: dict[str, str], other_admin: Caller, path: str
) -> None:
    with server.client() as owner:
        before = read(owner, path, ids)
        seen = read(other_admin.http, path, ids, owner_id="admin")
        after = read(owner, path, ids)
    assert seen.status_code == 200
    assert seen.content in {before.content, after.content}  # Metrics are others in each minute.
    assert read(other_admin.http, path, ids).content != seen.content


@pytest.mark.parametrize("path", READ)
def test_who_is_no_admin_reads_nothing_of_another_owner(ids: dict[str, str], stranger: Caller, path: str) -> None:
    refused = read(stranger.http, path, ids, owner_id="admin")
    assert (refused.status_code, refused.json()["code"]) == (403, "authorization_error")
    assert refused.json()["details"] == {"scope": "admin"}
    own = read(stranger.http, path, ids, owner_id="stranger")
    assert own.status_code == read(stranger.http, path, ids).status_code


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path in OWNED if method != "GET"])
def test_nobody_writes_in_another_owners_place(
    ids: dict[str, str], other_admin: Caller, method: str, path: str
) -> None:
    refused = other_admin.call(method, f"{path}?owner_id=admin", ids)
    assert refused.status_code == 422, refused.text
    assert [error["field"] for error in refused.json()["validation_errors"]] == ["owner_id"]


@pytest.mark.parametrize("query", ["owner_id=", f"owner_id={'x' * 256}", "owner_id=a&owner_id=b", "owner_id=%00"])
def test_an_owner_that_cannot_be_is_refused(other_admin: Caller, query: str) -> None:
    refused = other_admin.http.get(f"/sessions?{query}")
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["validation_errors"]] == ["owner_id"]


def test_an_owner_is_seen_however_his_parameter_is_written(stranger: Caller) -> None:
    for name in ("owner%5Fid", "%6fwner_id", "limit=1&owner_id"):
        assert stranger.http.get(f"/sessions?{name}=admin").status_code == 403


def test_an_admin_follows_the_events_of_another_owners_run(ids: dict[str, str], other_admin: Caller) -> None:
    address = f"/executions/{ids['execution_id']}/events?owner_id=admin"
    events = other_admin.http.get(address, headers={"Accept": "text/event-stream"})
    assert "event: execution.completed" in events.text


def test_the_log_names_who_reads_and_not_the_owner(server: Server, other_admin: Caller) -> None:
    mark = f"find-{uuid.uuid4().hex}"
    other_admin.http.get("/sessions?owner_id=admin", headers={"X-Correlation-ID": mark})
    deadline = time.monotonic() + 5
    while mark not in server.log.read_text() and time.monotonic() < deadline:  # Written behind the answer.
        time.sleep(0.02)
    (line,) = [line for line in server.log.read_text().splitlines() if mark in line]
    assert json.loads(line)["principal"] == "other-admin"


@pytest.mark.parametrize("path", ["/sessions", "/agents", "/tools", "/mcp-servers"])
def test_lists_hold_only_ones_own(ids: dict[str, str], stranger: Caller, path: str) -> None:
    assert stranger.http.get(path, params={"include_total": True}).json()["total"] == 0


def test_a_message_cannot_follow_one_of_another_owner(ids: dict[str, str], stranger: Caller) -> None:
    session = stranger.http.post("/sessions", json={}).json()["id"]
    body = {"content": "x", "parent_message_id": ids["message_id"]}
    assert stranger.http.post(f"/sessions/{session}/messages", json=body).status_code == 422


def test_no_message_of_many_can_follow_one_of_another_owner(ids: dict[str, str], stranger: Caller) -> None:
    session = stranger.http.post("/sessions", json={}).json()["id"]
    body = [{"content": "x"}, {"content": "x", "parent_message_id": ids["message_id"]}]
    assert stranger.http.post(f"/sessions/{session}/messages/bulk-create", json=body).status_code == 422
    assert stranger.http.get(f"/sessions/{session}/messages").json()["items"] == []


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_session_of_another_owner_among_many_is_not_found(
    server: Server, ids: dict[str, str], stranger: Caller, method: str
) -> None:
    own = stranger.http.post("/sessions", json={}).json()["id"]
    refused = stranger.http.request(method, "/sessions/bulk-delete", json=[own, ids["session_id"]])
    assert (refused.status_code, refused.json()["details"]) == (404, {"ids": [ids["session_id"]]})
    assert stranger.http.delete(f"/sessions/{own}").status_code == 204
    with server.client() as api:
        assert api.get(f"/sessions/{ids['session_id']}").status_code == 200


def test_a_message_of_another_owner_cannot_be_forked_into_ones_own_session(
    ids: dict[str, str], stranger: Caller
) -> None:
    own = stranger.http.post("/sessions", json={}).json()["id"]
    refused = stranger.http.post(f"/sessions/{own}/fork", json={"from_message_id": ids["message_id"]})
    assert refused.status_code == 422
    refused = stranger.http.post(f"/sessions/{ids['session_id']}/fork", json={"from_message_id": ids["message_id"]})
    assert refused.status_code == 404


def test_a_search_in_a_session_of_another_owner_is_not_found(ids: dict[str, str], stranger: Caller) -> None:
    for search in ("xx", "x y or z"):
        params = {"search": search, "session_id": ids["session_id"]}
        assert stranger.http.get("/messages", params=params).status_code == 404
        assert stranger.http.get("/messages", params={"search": search}).json()["items"] == []


def test_an_agent_cannot_run_in_a_session_of_another_owner(ids: dict[str, str], stranger: Caller) -> None:
    model = {"provider": "openai", "model": "m"}
    agent = stranger.http.post("/agents", json={"name": "theirs", "model_config": model}).json()["id"]
    body = {"message": "x", "session_id": ids["session_id"]}
    assert stranger.http.post(f"/agents/{agent}/execute", json=body).status_code == 404


def test_health_needs_no_key(server: Server) -> None:
    with server.client(key="") as nobody:
        assert nobody.get("/health").json()["status"] == "ok"
        assert nobody.get("/health/live").status_code == nobody.get("/health/ready").status_code == 200


def test_a_revoked_key_is_refused_within_a_second(server: Server) -> None:
    with Caller(server, "leaver", "sessions:read") as caller:
        assert caller.http.get("/sessions").status_code == 200
        server.command("keys", "revoke", caller.key["id"], check=True)
        revoked = time.monotonic()
        while caller.http.get("/sessions").status_code == 200:
            assert time.monotonic() - revoked < 1.2
            time.sleep(0.05)
        assert caller.http.get("/sessions").status_code == 401


def test_a_well_formed_key_that_nobody_made_is_refused(server: Server) -> None:
    with server.client(generate("test")) as client:
        assert client.get("/sessions").status_code == 401


def test_keys_are_listed_without_the_keys(server: Server) -> None:
    options = ("--owner", "listed", "--scope", "agents:read", "--json")
    made = json.loads(server.command("keys", "create", *options, check=True).stdout)
    listed = server.command("keys", "list", "--json", check=True).stdout
    entry = next(entry for entry in json.loads(listed) if entry["id"] == made["id"])
    assert (entry["owner_id"], entry["scopes"]) == ("listed", ["agents:read"])
    assert made["key"] not in listed
    assert made["key"].rpartition("-")[2] not in server.command("keys", "list", check=True).stdout


def test_neither_log_nor_database_holds_a_key(server: Server, database_url: str) -> None:
    with server.client() as api:
        api.get("/sessions")
        api.get("/sessions", params={"user_id": KEY})
    assert KEY not in server.log.read_text()
    if database_url.startswith("sqlite"):
        path = database_url.removeprefix("sqlite:///")
        for suffix in ("", "-wal"):
            with open(path + suffix, "rb") as file:
                assert KEY.encode() not in file.read()


def test_a_scope_that_does_not_exist_is_a_usage_error(server: Server) -> None:
    refused = server.command("keys", "create", "--scope", "sessions:fly")
    assert refused.returncode == 2
    assert "sessions:fly" in refused.stderr


def test_revoking_what_is_not_there_says_so(server: Server) -> None:
    refused = server.command("keys", "revoke", str(uuid.uuid4()))
    assert (refused.returncode, "Hint:" in refused.stderr) == (1, True)
