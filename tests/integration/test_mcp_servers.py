"""Registered MCP servers through the server, on both databases: what is stored, shown, synced and called."""

import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ai_agent.domain.fields import KEPT_SECRET
from tests import mcp
from tests.conftest import Server
from tests.integration.test_agents import execute
from tests.mcp_peer import HANDSHAKE, STATELESS, Peer, text, tool
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, events, make_agent, messages, start
from tests.webhook_receiver import Canary

TIME = Path(sys.executable).parent / "mcp-server-time"
CANARY = "canary-secret-7f3a"


@pytest.fixture(scope="module")
def server(database_url: str, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    commands = folder / "commands.json"
    spy = "import os, sys; open(sys.argv[1], 'w').write(repr(dict(os.environ)))"
    commands.write_text(
        json.dumps(
            {
                "time": {"command": str(TIME), "arguments": ["--local-timezone", "UTC"]},
                "spy": {"command": sys.executable, "arguments": ["-c", spy, str(folder / "environment")]},
            }
        )
    )
    started = Server(
        database_url,
        folder,
        OPENAI_BASE_URL=f"{model.url}/v1",
        OPENAI_API_KEY=CANARY,
        AI_AGENT_OUTBOUND_ALLOW="127.0.0.1/32",
        AI_AGENT_MCP_STDIO_COMMANDS=str(commands),
    )
    yield started
    started.stop()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


def errors(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 422, response.text
    return {error["field"]: error["message"] for error in response.json()["validation_errors"]}


# What is registered


def test_a_server_comes_back_as_it_was_written(api: httpx.Client, peer: Peer) -> None:
    written = mcp.body(peer, description="Ours", health_check_url=peer.url, metadata={"a": [1]}, enabled=False)
    made = api.post("/mcp-servers", json=written).json()
    assert {name: made[name] for name in written} == written
    assert (made["authentication"], made["status"], made["command"]) == ({"type": "none"}, "disabled", None)
    assert (made["capabilities"], made["last_error"], made["last_seen_at"], made["tool_count"]) == ({}, None, None, 0)
    answer = api.get(f"/mcp-servers/{made['id']}")
    assert answer.json() == made
    assert api.get(f"/mcp-servers/{made['id']}", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_a_server_need_not_be_there_when_it_is_registered(api: httpx.Client) -> None:
    with Peer() as gone:
        pass
    made = mcp.register(api, gone)
    assert made["status"] == "unknown"
    seen = mcp.becomes(api, made, "unreachable")
    assert seen["last_error"] == "The server cannot be reached"
    assert seen["last_seen_at"] is None


def test_what_does_not_fit_the_transport_is_refused(api: httpx.Client, peer: Peer) -> None:
    assert errors(api.post("/mcp-servers", json={"name": "x", "transport": "streamable_http"})) == {
        "endpoint": "Is required for streamable_http"
    }
    assert errors(api.post("/mcp-servers", json=mcp.body(peer, command="time"))) == {"command": "Is for stdio only"}
    wrong = mcp.body(peer, transport="stdio", command="time", authentication={"type": "bearer", "token": "x"})
    assert set(errors(api.post("/mcp-servers", json=wrong))) == {"endpoint", "authentication"}
    assert set(errors(api.post("/mcp-servers", json={"name": "x", "transport": "stdio"}))) == {"command"}
    output_only = mcp.body(peer, status="connected", owner_id="me", tool_count=3, capabilities={})
    assert set(errors(api.post("/mcp-servers", json=output_only))) == {
        "status",
        "owner_id",
        "tool_count",
        "capabilities",
    }


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"type": "magic"}, {"authentication.type"}),
        ({"type": "none", "token": "x"}, {"authentication.token"}),
        ({"type": "bearer"}, {"authentication.token"}),
        ({"type": "bearer", "token": "a b"}, {"authentication.token"}),
        ({"type": "headers"}, {"authentication.headers"}),
        ({"type": "headers", "headers": {"Host": "x"}}, {"authentication.headers.Host"}),
        ({"type": "headers", "headers": {"Mcp-Session-Id": "x"}}, {"authentication.headers.Mcp-Session-Id"}),
        ({"type": "headers", "headers": {"X": "a\r\nY: b"}}, {"authentication.headers[...]", "authentication.headers"}),
        (
            {"type": "oauth_client_credentials"},
            {"authentication.token_url", "authentication.client_id", "authentication.client_secret"},
        ),
    ],
)
def test_authentication_that_does_not_fit_its_type_is_refused(
    api: httpx.Client, peer: Peer, given: dict[str, Any], wrong: set[str]
) -> None:
    refused = errors(api.post("/mcp-servers", json=mcp.body(peer, authentication=given)))
    assert set(refused) <= wrong
    assert refused


def test_a_name_is_taken_once(api: httpx.Client, peer: Peer) -> None:
    made = mcp.register(api, peer)
    assert api.post("/mcp-servers", json=mcp.body(peer, name=made["name"])).status_code == 409
    other = mcp.register(api, peer)
    assert api.patch(f"/mcp-servers/{other['id']}", json={"name": made["name"]}).status_code == 409


def test_a_server_is_patched_replaced_and_deleted_in_the_version_that_was_seen(api: httpx.Client, peer: Peer) -> None:
    made = mcp.register(api, peer, enabled=False, description="x", metadata={"a": 1, "b": 2})
    address = f"/mcp-servers/{made['id']}"
    patched = api.patch(address, json={"description": None, "metadata": {"a": None}}).json()
    assert (patched["description"], patched["metadata"]) == (None, {"b": 2})
    assert errors(api.patch(address, json={"endpoint": None})) == {"endpoint": "Is required for streamable_http"}
    assert api.put(address, json=mcp.body(peer), headers={"If-Match": '"999"'}).status_code == 412
    replaced = api.put(address, json=mcp.body(peer, name=made["name"]))
    assert (replaced.json()["metadata"], replaced.json()["enabled"]) == ({}, True)
    assert api.delete(address).status_code == 204
    assert api.get(address).status_code == 404


def test_lists_are_filtered(api: httpx.Client, peer: Peer) -> None:
    mark = uuid.uuid4().hex
    off = mcp.register(api, peer, description=mark, enabled=False)
    on = mcp.register(api, peer, description=mark)
    mcp.becomes(api, on, "connected")

    def found(**params: Any) -> list[str]:
        page = api.get("/mcp-servers", params={"search": mark, "sort_order": "asc", **params}).json()
        return [one["id"] for one in page["items"]]

    assert found() == [off["id"], on["id"]]
    assert found(enabled=True) == found(status="connected") == [on["id"]]
    assert found(status="disabled") == [off["id"]]
    assert found(transport="stdio") == []
    for query in ("status=fine", "transport=carrier_pigeon", "enabled=perhaps", "sort_by=status"):
        assert list(errors(api.get(f"/mcp-servers?{query}"))) == [query.partition("=")[0]]


# Secrets


def dump(database_url: str) -> str:
    rows = execute(database_url, "SELECT authentication, secrets FROM mcp_servers")
    return str(rows)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"type": "bearer", "token": CANARY}, {"type": "bearer", "token": KEPT_SECRET}),
        (
            {"type": "headers", "headers": {"X-Key": CANARY, "X-Team": "a b"}},
            {"type": "headers", "headers": {"X-Key": KEPT_SECRET, "X-Team": KEPT_SECRET}},
        ),
    ],
)
def test_a_secret_is_sent_and_never_shown(
    api: httpx.Client, server: Server, database_url: str, peer: Peer, given: dict[str, Any], shown: dict[str, Any]
) -> None:
    made = mcp.register(api, peer, authentication=given)
    assert made["authentication"] == shown
    mcp.sync(api, made)
    sent = peer.requests[-1].headers
    told = given.get("headers") or {"Authorization": f"Bearer {CANARY}"}
    assert {name: sent[name.lower()] for name in told} == told
    assert CANARY not in dump(database_url)
    assert CANARY not in api.get("/mcp-servers", params={"limit": 100}).text
    assert CANARY not in server.log.read_text()


def test_a_secret_is_kept_by_its_sign_but_does_not_follow_to_another_place(api: httpx.Client, peer: Peer) -> None:
    made = mcp.register(api, peer, authentication={"type": "bearer", "token": CANARY})
    address = f"/mcp-servers/{made['id']}"
    assert api.patch(address, json={"description": "still"}).status_code == 200
    mcp.sync(api, made)
    assert peer.requests[-1].headers["authorization"] == f"Bearer {CANARY}"
    with Peer() as thief:
        moved = api.patch(address, json={"endpoint": thief.url})
        assert errors(moved) == {"authentication.token": "Is required anew when it is to go to another address"}
        new = api.patch(address, json={"endpoint": thief.url, "authentication": {"token": "fresh"}})
        assert new.status_code == 200
        mcp.sync(api, made)
        assert {one.headers["authorization"] for one in thief.requests} == {"Bearer fresh"}
    nothing = {"type": "bearer", "token": KEPT_SECRET}
    assert errors(api.post("/mcp-servers", json=mcp.body(peer, authentication=nothing))) == {
        "authentication.token": "There is no secret to keep"
    }


def test_a_token_is_fetched_kept_and_renewed(api: httpx.Client, peer: Peer) -> None:
    given = {
        "type": "oauth_client_credentials",
        "token_url": peer.url.replace("/mcp", "/token"),
        "client_id": "us",
        "client_secret": CANARY,
        "scope": "tools",
    }
    peer.token = "none yet"
    made = mcp.register(api, peer, authentication=given)
    assert made["authentication"] == given | {"client_secret": KEPT_SECRET}
    mcp.sync(api, made)
    form = peer.token_form
    assert (form["grant_type"], form["scope"]) == ("client_credentials", "tools")
    assert form["authorization"] == "Basic dXM6Y2FuYXJ5LXNlY3JldC03ZjNh"
    given_before = peer.tokens_given
    mcp.sync(api, made)
    assert peer.tokens_given == given_before
    peer.token = "another one"
    mcp.sync(api, made)
    assert peer.tokens_given == given_before + 1


# Where the server may go, and what it may run


@pytest.mark.parametrize("field", ["endpoint", "health_check_url", "token_url"])
@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://10.0.0.1/",
        "http://[::1]:80/",
        "http://[::ffff:10.0.0.1]/",
        "http://0x7f000002/",
        "http://metadata.google.internal/",
        "http://user:password@example.com/",
        "file:///etc/passwd",
        "nonsense",
    ],
)
def test_addresses_that_nobody_may_name_are_refused(api: httpx.Client, peer: Peer, field: str, url: str) -> None:
    given = mcp.body(peer)
    if field == "token_url":
        oauth = {"type": "oauth_client_credentials", "client_id": "a", "client_secret": "b"}
        given["authentication"] = oauth | {"token_url": url}
        field = "authentication.token_url"
    else:
        given[field] = url
    for path in ("/mcp-servers", "/mcp-servers/test"):
        assert list(errors(api.post(path, json=given))) == [field]


def test_a_name_that_leads_inside_and_a_redirect_reach_nobody(server: Server, database_url: str) -> None:
    """What a resolver says of a name is checked when the connection is made; a redirect is not followed."""
    canary = Canary("127.0.0.2")
    with server.client() as api, Peer() as peer:
        made = mcp.register(api, peer, enabled=False)
        execute(database_url, f"UPDATE mcp_servers SET endpoint = '{canary.url}' WHERE name = '{made['name']}'")
        api.patch(f"/mcp-servers/{made['id']}", json={"description": "x"})  # Refused: its address is none of the good.
        execute(database_url, f"UPDATE mcp_servers SET enabled = true WHERE name = '{made['name']}'")
        refused = api.post(f"/mcp-servers/{made['id']}/sync")
        assert (refused.status_code, refused.json()["code"]) == (503, "external_service_error")
        assert refused.json()["message"] == "The server does not connect to this address"
    assert not canary.was_reached()
    canary.close()


@pytest.mark.parametrize("command", ["bash", "/bin/sh", "../time", ""])
def test_only_the_operators_commands_run(api: httpx.Client, command: str) -> None:
    for path in ("/mcp-servers", "/mcp-servers/test"):
        given = {"name": "x", "transport": "stdio", "command": command}
        assert list(errors(api.post(path, json=given))) == ["command"]


def test_a_command_gets_nothing_of_the_servers_environment(api: httpx.Client, server: Server) -> None:
    tried = api.post("/mcp-servers/test", json={"name": "x", "transport": "stdio", "command": "spy"}).json()
    assert (tried["ok"], tried["error"]) == (False, "The server's process has ended")
    seen = (server.folder / "environment").read_text()
    assert set(eval(seen)) <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ"}
    assert CANARY not in seen


def test_a_command_is_a_server_as_any_other(api: httpx.Client) -> None:
    made = mcp.register(api, "", transport="stdio", endpoint=None, command="time")
    assert "get_current_time" in mcp.sync(api, made)["added"]
    said = mcp.invoke(api, mcp.tools(api, made)["get_current_time"], timezone="Asia/Tokyo")
    assert (said["is_error"], "+09:00" in str(said["output"])) == (False, True)
    assert api.delete(f"/mcp-servers/{made['id']}").status_code == 204


# Tried, asked


def test_a_configuration_is_tried_without_saving_it(api: httpx.Client, peer: Peer) -> None:
    given = mcp.body(peer)
    tried = api.post("/mcp-servers/test", json=given).json()
    assert (tried["ok"], tried["error"], tried["protocol_version"]) == (True, None, STATELESS)
    assert (tried["tools"], tried["capabilities"]) == (["echo"], {"tools": {}})
    assert api.get("/mcp-servers", params={"search": given["name"]}).json()["items"] == []
    peer.token = "other"
    tried = api.post("/mcp-servers/test", json=given).json()
    assert (tried["ok"], tried["tools"]) == (False, [])
    assert tried["error"] == "The server refused the credentials: it answered 401"


def test_health_is_asked_now_and_written_down(api: httpx.Client, server: Server, peer: Peer) -> None:
    made = mcp.register(api, peer)
    health = api.get(f"/mcp-servers/{made['id']}/health").json()
    assert (health["status"], health["last_error"]) == ("connected", None)
    assert health["latency_ms"] > 0
    known = api.get(f"/mcp-servers/{made['id']}").json()
    assert (known["status"], known["protocol_version"], known["tool_count"]) == ("connected", STATELESS, 1)
    peer.stop()
    health = api.get(f"/mcp-servers/{made['id']}/health").json()
    assert (health["status"], health["latency_ms"]) == ("degraded", None)
    for _ in range(2):
        health = api.get(f"/mcp-servers/{made['id']}/health").json()
    assert (health["status"], health["last_error"]) == ("unreachable", "The server cannot be reached")
    assert 'ai_agent_mcp_checks_total{status="unreachable"}' in httpx.get(f"{server.url}/metrics").text
    peer.start()
    assert api.get(f"/mcp-servers/{made['id']}/health").json()["status"] == "connected"


def test_a_health_check_url_is_asked_without_credentials(api: httpx.Client, peer: Peer) -> None:
    url = peer.url.replace("/mcp", "/health")
    made = mcp.register(api, peer, health_check_url=url, authentication={"type": "bearer", "token": CANARY})
    assert mcp.becomes(api, made, "connected")["tool_count"] == 0
    assert peer.requests == []
    api.patch(f"/mcp-servers/{made['id']}", json={"health_check_url": f"{url}z"})
    assert api.get(f"/mcp-servers/{made['id']}/health").json()["last_error"] == "The health check answered 405"


def test_a_disabled_server_is_left_alone(api: httpx.Client, peer: Peer) -> None:
    made = mcp.register(api, peer, enabled=False)
    assert api.get(f"/mcp-servers/{made['id']}/health").json()["status"] == "disabled"
    assert api.post(f"/mcp-servers/{made['id']}/sync").status_code == 409
    assert peer.requests == []


# Sync


def test_a_sync_names_what_was_added_changed_and_removed(api: httpx.Client, peer: Peer) -> None:
    mark = uuid.uuid4().hex[:6]
    stays, changes, goes = (f"{name}_{mark}" for name in ("stays", "changes", "goes"))
    peer.tools = [tool(stays), tool(changes), tool(goes, annotations={"readOnlyHint": True})]
    made = mcp.register(api, peer)
    first = mcp.sync(api, made)
    assert (set(first["added"]), first["changed"], first["removed"], first["failed"]) == (
        {stays, changes, goes},
        [],
        [],
        [],
    )
    assert mcp.sync(api, made) == {"added": [], "changed": [], "removed": [], "failed": [], "unchanged": 3}
    rows = mcp.tools(api, made)
    assert rows[goes]["config"] == {"name": goes, "annotations": {"readOnlyHint": True}}
    assert {(row["kind"], row["mcp_server_id"]) for row in rows.values()} == {("mcp", made["id"])}
    for name in (stays, goes, changes):
        own = {"requires_approval": True, "metadata": {"mine": 1}}
        assert api.patch(f"/tools/{rows[name]['id']}", json=own).status_code == 200
    api.patch(f"/tools/{rows[changes]['id']}", json={"enabled": False})
    peer.tools = [tool(stays), tool(changes, {"type": "object", "properties": {"new": {}}})]
    second = mcp.sync(api, made)
    assert (second["added"], second["changed"], second["removed"], second["unchanged"]) == ([], [changes], [goes], 1)
    rows = mcp.tools(api, made)
    assert rows[changes]["schema"]["properties"] == {"new": {}}
    assert {name: row["enabled"] for name, row in rows.items()} == {stays: True, changes: False, goes: False}
    assert {row["requires_approval"] for row in rows.values()} == {True}
    assert mcp.sync(api, made)["removed"] == []
    peer.tools.append(tool(goes))
    assert mcp.sync(api, made)["added"] == [goes]
    back = mcp.tools(api, made)[goes]
    assert (back["enabled"], back["requires_approval"], back["metadata"]) == (True, True, {"mine": 1})
    assert back["id"] == rows[goes]["id"]


def test_tools_that_cannot_be_used_are_named_and_the_others_come(api: httpx.Client, peer: Peer) -> None:
    good = f"good_{uuid.uuid4().hex[:6]}"
    draft_7 = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}}
    peer.tools = [
        tool(good, draft_7),
        tool(good),
        tool("no_object", {"type": "string"}),
        tool("nonsense", {"type": "object", "properties": {"a": {"type": "nonsense"}}}),
        tool("elsewhere", {"type": "object", "$ref": "http://169.254.169.254/schema"}),
        {"name": "bare"},
        {"inputSchema": {}},
        "no tool at all",
        tool("x" * 300),
    ]
    made = mcp.register(api, peer)
    synced = mcp.sync(api, made)
    assert synced["added"] == [good]
    failed = {one["name"]: one["error"] for one in synced["failed"]}
    assert set(failed) == {good, "no_object", "nonsense", "elsewhere", "bare", "[6]", "[7]", "[8]"}
    assert failed["no_object"] == "inputSchema.type: Must be object: arguments have names"
    assert failed["bare"] == "Has no inputSchema"
    assert mcp.invoke(api, mcp.tools(api, made)[good], text="x")["output"] == "x"


def test_names_that_are_taken_get_the_servers_before_them(api: httpx.Client) -> None:
    mark = uuid.uuid4().hex[:6]
    with Peer() as first, Peer() as second:
        first.tools = second.tools = [tool(f"search_{mark}"), tool("calculator"), tool(f"dots.and spaces {mark}")]
        one = mcp.register(api, first, name=f"one {mark}")
        two = mcp.register(api, second, name=f"two {mark}")
        assert set(mcp.sync(api, one)["added"]) == {
            f"search_{mark}",
            f"one_{mark}__calculator",
            f"dots_and_spaces_{mark}",
        }
        assert set(mcp.sync(api, two)["added"]) == {
            f"two_{mark}__search_{mark}",
            f"two_{mark}__calculator",
            f"two_{mark}__dots_and_spaces_{mark}",
        }
        second.script(f"search_{mark}", result=text("the second's"))
        found = mcp.tools(api, two)[f"two_{mark}__search_{mark}"]
        assert mcp.invoke(api, found)["output"] == "the second's"
        first.tools = [tool("y" * 200), tool("y" * 201)]
        names = mcp.sync(api, one)["added"]
        assert names[0] == "y" * 64
        assert names[1].startswith(f"one_{mark}__yyy")
        assert len(names[1]) == 64


def test_what_comes_from_the_server_is_not_the_owners_to_change(api: httpx.Client, peer: Peer) -> None:
    peer.tools = [tool(f"mine_{uuid.uuid4().hex[:6]}")]
    made = mcp.register(api, peer)
    (name,) = mcp.sync(api, made)["added"]
    row = mcp.tools(api, made)[name]
    address = f"/tools/{row['id']}"
    for wrong in ({"name": "other"}, {"schema": {"title": "x"}}, {"config": {"name": "rm"}}, {"description": "x"}):
        assert list(errors(api.patch(address, json=wrong))) == list(wrong)
    assert set(errors(api.put(address, json={"name": name, "kind": "client", "schema": row["schema"]}))) >= {"kind"}
    assert api.patch(address, json={"enabled": False}).json()["enabled"] is False
    assert api.post(f"{address}/invoke", json={}).status_code == 409


def test_a_deleted_server_takes_its_tools_along(api: httpx.Client, peer: Peer) -> None:
    peer.tools = [tool(f"gone_{uuid.uuid4().hex[:6]}")]
    made = mcp.register(api, peer)
    mcp.sync(api, made)
    (row,) = mcp.tools(api, made).values()
    assert api.get("/tools", params={"mcp_server_id": made["id"]}).json()["items"] == [row]
    assert api.delete(f"/mcp-servers/{made['id']}").status_code == 204
    assert api.get(f"/tools/{row['id']}").status_code == 404


def test_five_hundred_tools_are_synced_in_two_seconds(api: httpx.Client, peer: Peer) -> None:
    properties = {f"field_{number}": {"type": "string", "description": "What it means"} for number in range(12)}
    peer.tools = [tool(f"bulk-{number}", {"type": "object", "properties": properties}) for number in range(500)]
    made = mcp.register(api, peer)
    mcp.becomes(api, made, "connected")
    begun = time.monotonic()
    synced = mcp.sync(api, made)
    assert time.monotonic() - begun < 2
    assert len(synced["added"]) == 500
    assert api.delete(f"/mcp-servers/{made['id']}").status_code == 204


# Called


@pytest.mark.parametrize("revision", [STATELESS, HANDSHAKE])
def test_a_run_calls_a_tool_of_each_revision_and_tells_its_progress(
    api: httpx.Client, model: ModelServer, revision: str
) -> None:
    with Peer(revision) as peer:
        peer.tools = [tool(f"work_{uuid.uuid4().hex[:6]}")]
        made = mcp.register(api, peer)
        (name,) = mcp.sync(api, made)["added"]
        peer.script(name, progress=[{"progress": 1, "total": 2, "message": "half"}], result=text("all done"))
        model.script(Reply(calls=[Call(name, {"text": "x"})]), Reply("It is done"))
        agent = make_agent(api, tools=[name])
        ran = ended(api, start(api, agent)["id"])
        assert (ran["status"], messages(api, ran["session_id"])[-1]) == ("completed", ("assistant", "It is done"))
        told = events(api, ran["id"])
        kinds = [event["type"] for event in told if event["type"].startswith("tool.")]
        assert kinds == ["tool.started", "tool.progress", "tool.completed"]
        progress = next(event["data"] for event in told if event["type"] == "tool.progress")
        assert (progress["progress"], progress["total"], progress["message"]) == (1, 2, "half")
        heard = model.requests[-1]["messages"][-1]
        assert (heard["role"], heard["content"]) == ("tool", "all done")
        (call,) = api.get(f"/executions/{ran['id']}/tool-calls").json()["items"]
        assert (call["kind"], call["output"], call["is_error"]) == ("mcp", "all done", False)


def test_arguments_that_do_not_fit_never_reach_the_server(api: httpx.Client, model: ModelServer, peer: Peer) -> None:
    peer.tools = [tool(f"strict_{uuid.uuid4().hex[:6]}", {"type": "object", "required": ["city"]})]
    made = mcp.register(api, peer)
    (name,) = mcp.sync(api, made)["added"]
    model.script(Reply(calls=[Call(name, {})]), Reply("So be it"))
    agent = make_agent(api, tools=[name])
    api.post(f"/agents/{agent}/execute", json={"message": "go"})
    assert "city" in model.requests[-1]["messages"][-1]["content"]
    assert peer.called(name) == []


def test_what_fails_in_the_tool_is_told_to_the_model(api: httpx.Client, peer: Peer) -> None:
    peer.tools = [tool(f"fails_{uuid.uuid4().hex[:6]}")]
    made = mcp.register(api, peer)
    (name,) = mcp.sync(api, made)["added"]
    row = mcp.tools(api, made)[name]
    peer.script(name, result=text("No such city", isError=True))
    said = mcp.invoke(api, row)
    assert (said["output"], said["is_error"]) == ("No such city", True)
    peer.script(name, result=text("", structuredContent={"sum": 3}))
    assert mcp.invoke(api, row)["output"] == {"sum": 3}
