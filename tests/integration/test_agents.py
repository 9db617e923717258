"""Agents in full through the server, on both databases: their models, their keys, their versions."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ai_agent.storage import migrations
from tests import mcp
from tests.conftest import SECRET, Server
from tests.model_server import ModelServer, Reply

CANARY = "canary-api-key-9f8e7d6c5b4a"
NEWER = "a-newer-secret-key-of-more-than-32-characters"


@pytest.fixture(scope="module")
def own() -> Iterator[ModelServer]:
    """A model server of a user's own."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(database_url: str, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(
        database_url,
        tmp_path_factory.mktemp("server"),
        OPENAI_BASE_URL=f"{model.url}/v1",
        OPENAI_API_KEY="operators-openai-key",
        OPENAI_ORG_ID="operators-organization",
        ANTHROPIC_BASE_URL=model.url,
        ANTHROPIC_API_KEY="operators-anthropic-key",
        ANTHROPIC_CUSTOM_HEADERS="x-gateway: operators-gateway-key",
        AI_AGENT_OUTBOUND_ALLOW="127.0.0.1/32",
        AI_AGENT_LOG_LEVEL="debug",
    )
    yield started
    if started.process.poll() is None:
        started.stop()


def make(api: httpx.Client, name: str, **body: Any) -> dict[str, Any]:
    response = api.post("/agents", json={"name": name, **body})
    assert response.status_code == 201, response.text
    return dict(response.json())


def fields(response: httpx.Response) -> list[str]:
    assert response.status_code == 422, response.text
    return [error["field"] for error in response.json()["validation_errors"]]


def with_key(own: ModelServer, **more: Any) -> dict[str, Any]:
    return {"provider": "openai", "model": "m", "base_url": f"{own.url}/v1", "api_key": CANARY, **more}


def rows_of(database_url: str) -> str:
    """Every row of every table, as text."""
    if database_url.startswith("postgresql"):
        names = execute(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return str([execute(database_url, f'SELECT t::text FROM "{name}" t') for (name,) in names])
    names = execute(database_url, "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'")
    return str([execute(database_url, f'SELECT * FROM "{name}"') for (name,) in names])


def dump(database_url: str) -> str:
    """All that the database holds, and what an embedded one has left on the disk."""
    path = Path(database_url.removeprefix("sqlite:///"))
    files = [file for file in path.parent.glob("*") if path.exists()]
    return rows_of(database_url) + b"".join(file.read_bytes() for file in files).decode(errors="replace")


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    async def postgresql() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    if url.startswith("postgresql"):
        return asyncio.run(postgresql())
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        return connection.execute(sql).fetchall()


def lose_leases(database_url: str) -> None:
    """As if the time had gone by that a worker may be silent."""
    execute(database_url, "UPDATE executions SET lease_until = queued_at WHERE status = 'running'")


# The model's configuration


def test_a_configuration_in_full_comes_back_as_it_was_written(api: httpx.Client, own: ModelServer) -> None:
    config = with_key(
        own,
        temperature=0.5,
        max_tokens=100,
        top_p=0.9,
        fallback_models=["n", "o"],
        timeout_seconds=30.0,
        max_steps=5,
        max_total_tokens=1000,
        max_cost=0.25,
    )
    agent = make(api, "full", model_config=config)
    assert agent["model_config"] == {**config, "api_key": "***"}
    assert api.get(f"/agents/{agent['id']}").json() == agent


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"provider": "other"}, "provider"),
        ({"model": ""}, "model"),
        ({"fallback_models": ["m"] * 9}, "fallback_models"),
        ({"fallback_models": ["m", ""]}, "fallback_models[1]"),
        ({"max_cost": 0}, "max_cost"),
        ({"max_steps": 0}, "max_steps"),
        ({"api_key": "two words"}, "api_key"),
        ({"api_key": "line\nbreak"}, "api_key"),
        ({"api_key": "x" * 4097}, "api_key"),
        ({"base_url": "https://api.example.com/v1"}, "api_key"),
        ({"base_url": "https://api.example.com/v1", "api_key": None}, "api_key"),
        ({"base_url": "https://api.example.com/v1", "api_key": "k", "provider": "local"}, "base_url"),
        ({"base_url": "http://169.254.169.254/latest", "api_key": "k"}, "base_url"),
        ({"base_url": "http://127.1:8000/v1", "api_key": "k"}, None),
        ({"base_url": "http://127.2:8000/v1", "api_key": "k"}, "base_url"),
        ({"base_url": "http://[::1]/v1", "api_key": "k"}, "base_url"),
        ({"base_url": "http://10.0.0.1/v1", "api_key": "k"}, "base_url"),
        ({"base_url": "file:///etc/passwd", "api_key": "k"}, "base_url"),
        ({"base_url": "https://u:p@example.com", "api_key": "k"}, "base_url"),
        ({"base_url": "https://example.com/" + "x" * 2048, "api_key": "k"}, "base_url"),
        ({"api_key": "***"}, "api_key"),
        ({"provder": "openai"}, "provder"),
    ],
)
def test_a_wrong_configuration_is_refused_in_each_way_of_writing_it(
    api: httpx.Client, wrong: dict[str, Any], field: str | None
) -> None:
    name = f"wrong {time.monotonic_ns()}"
    agent = make(api, name)
    path = f"/agents/{agent['id']}"
    answers = [
        api.post("/agents", json={"name": f"{name} too", "model_config": wrong}),
        api.put(path, json={"name": name, "model_config": wrong}),
        api.patch(path, json={"model_config": wrong}),
    ]
    if field is None:
        assert [answer.status_code for answer in answers] == [201, 200, 200]
        return
    # Null removes a member in a merge patch, and of what is left the key is missing all the same.
    assert [fields(answer) for answer in answers] == [[f"model_config.{field}"]] * 3
    assert api.get(path).json() == agent


# The key


def test_the_key_is_kept_by_its_sign_replaced_by_another_and_removed_by_null(
    api: httpx.Client, own: ModelServer
) -> None:
    agent = make(api, "keeper", model_config=with_key(own))
    path = f"/agents/{agent['id']}"

    def key_sent() -> str | None:
        answer = api.post(f"{path}/execute", json={"message": "hello"})
        assert answer.status_code == 200, answer.text
        header = own.requests[-1]["headers"].get("authorization") or own.requests[-1]["headers"]["Authorization"]
        return str(header).removeprefix("Bearer ")

    assert key_sent() == CANARY
    body = {"name": "keeper", "model_config": with_key(own, api_key="***", temperature=1.0)}
    assert api.put(path, json=body).json()["model_config"]["api_key"] == "***"
    assert key_sent() == CANARY
    assert api.patch(path, json={"description": "changed"}).status_code == 200
    assert api.patch(path, json={"model_config": {"temperature": 0.1}}).status_code == 200
    assert key_sent() == CANARY
    assert api.patch(path, json={"model_config": {"api_key": "another-key"}}).status_code == 200
    assert key_sent() == "another-key"
    assert fields(api.patch(path, json={"model_config": {"api_key": None}})) == ["model_config.api_key"]
    gone = api.patch(path, json={"model_config": {"api_key": None, "base_url": None}}).json()
    assert gone["model_config"] == {"provider": "openai", "model": "m", "temperature": 0.1}
    assert fields(api.patch(path, json={"model_config": {"api_key": "***"}})) == ["model_config.api_key"]


def test_a_put_without_a_key_removes_it(api: httpx.Client) -> None:
    config = {"provider": "openai", "model": "m", "api_key": CANARY}
    agent = make(api, "forgetful", model_config=config)
    del config["api_key"]
    put = api.put(f"/agents/{agent['id']}", json={"name": "forgetful", "model_config": config}).json()
    assert put["model_config"] == config
    assert put["created_at"] == agent["created_at"]


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"base_url": "https://thief.example/v1"},
        {"base_url": "https://thief.example/v1", "api_key": "***"},
        {"base_url": None},
        {"provider": "anthropic", "base_url": None},
    ],
)
def test_a_key_does_not_follow_to_another_address(
    api: httpx.Client, own: ModelServer, elsewhere: dict[str, Any]
) -> None:
    agent = make(api, f"moved {time.monotonic_ns()}", model_config=with_key(own))
    path = f"/agents/{agent['id']}"
    assert fields(api.patch(path, json={"model_config": elsewhere})) == ["model_config.api_key"]
    moved = {**agent["model_config"], **elsewhere}
    moved = {name: value for name, value in moved.items() if value is not None}
    assert fields(api.put(path, json={"name": "moved", "model_config": moved})) == ["model_config.api_key"]
    assert api.patch(path, json={"model_config": {**elsewhere, "api_key": "a-new-one"}}).status_code == 200


def test_a_key_for_one_provider_is_not_sent_to_another(api: httpx.Client) -> None:
    agent = make(api, "switched", model_config={"provider": "openai", "model": "m", "api_key": CANARY})
    path = f"/agents/{agent['id']}"
    assert fields(api.patch(path, json={"model_config": {"provider": "anthropic"}})) == ["model_config.api_key"]
    assert fields(api.patch(path, json={"model_config": {"provider": None}})) == ["model_config.api_key"]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_server_of_ones_own_gets_ones_own_key_and_nothing_of_the_operators(
    api: httpx.Client, own: ModelServer, model: ModelServer, provider: str
) -> None:
    url = f"{own.url}/v1" if provider == "openai" else own.url
    agent = make(api, f"own {provider}", model_config=with_key(own, provider=provider, base_url=url))
    before = len(model.requests)
    answer = api.post(f"/agents/{agent['id']}/execute", json={"message": "hello"})
    assert (answer.status_code, answer.json()["content"]) == (200, "You said: hello")
    assert len(model.requests) == before
    sent = own.requests[-1]["headers"]
    assert CANARY in str(sent)
    assert "operators" not in str(sent)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_key_without_an_address_goes_to_the_operators(api: httpx.Client, model: ModelServer, provider: str) -> None:
    agent = make(api, f"key only {provider}", model_config={"provider": provider, "model": "m", "api_key": CANARY})
    assert api.post(f"/agents/{agent['id']}/execute", json={"message": "hello"}).status_code == 200
    sent = str(model.requests[-1]["headers"])
    assert CANARY in sent
    assert f"operators-{provider}-key" not in sent


def test_a_redirect_of_ones_own_server_is_not_followed(api: httpx.Client, own: ModelServer, model: ModelServer) -> None:
    agent = make(api, "redirected", model_config=with_key(own))
    before = len(model.requests)
    own.script(Reply(status=307, headers={"location": f"{model.url}/v1/chat/completions"}))
    answer = api.post(f"/agents/{agent['id']}/execute", json={"message": "hello"})
    assert (answer.status_code, answer.json()["code"]) == (502, "external_service_error")
    assert len(model.requests) == before


def test_a_secret_is_nowhere_to_be_read(server: Server, api: httpx.Client, own: ModelServer, database_url: str) -> None:
    body = {"name": "secretive", "model_config": with_key(own)}
    agent = api.post("/agents", json=body, headers={"Idempotency-Key": "secretive"}).json()
    assert api.post("/agents", json=body, headers={"Idempotency-Key": "secretive"}).json() == agent
    path = f"/agents/{agent['id']}"
    run = api.post(f"{path}/execute", json={"message": "hello"}).json()
    own.script(Reply(status=401))
    failed = api.post(f"{path}/execute", json={"message": "hello"})
    assert failed.status_code == 502
    refused = api.patch(path, json={"model_config": {"api_key": f"{CANARY} {CANARY}"}})
    assert "***" in api.get(path).text
    events = api.get(f"/executions/{run['execution_id']}/events").text
    versions = api.get(f"{path}/versions").text
    shown = [events, versions, failed.text, refused.text, api.get(path).text, api.get("/agents?search=secretive").text]
    assert CANARY not in "".join(shown)
    assert CANARY not in server.log.read_text()
    stored = dump(database_url)
    assert "secretive" in stored
    assert CANARY not in stored
    assert CANARY.encode().hex() not in stored


# Versions


def test_each_change_is_a_version_and_an_old_one_comes_back_with_its_key(api: httpx.Client, own: ModelServer) -> None:
    agent = make(api, "first", system_prompt="one", model_config=with_key(own), tools=["a"], metadata={"n": 1})
    path = f"/agents/{agent['id']}"
    api.patch(path, json={"name": "second", "system_prompt": "two", "metadata": {"n": 2}})
    api.put(path, json={"name": "third", "model_config": {"provider": "openai", "model": "x"}})
    versions = api.get(f"{path}/versions").json()["items"]
    assert [(v["version"], v["name"], v["system_prompt"]) for v in versions] == [
        (3, "third", None),
        (2, "second", "two"),
        (1, "first", "one"),
    ]
    assert set(versions[0]) == {
        "agent_id",
        "version",
        "name",
        "description",
        "system_prompt",
        "model_config",
        "tools",
        "metadata",
        "created_at",
    }
    assert [v["created_at"] for v in versions] == sorted((v["created_at"] for v in versions), reverse=True)
    assert versions[-1]["created_at"] == agent["created_at"]
    restored = api.post(f"{path}/versions/1/restore")
    assert restored.status_code == 200
    expected = {**agent, "version": 4, "updated_at": restored.json()["updated_at"]}
    assert restored.json() == api.get(path).json() == expected
    assert [v["version"] for v in api.get(f"{path}/versions").json()["items"]] == [4, 3, 2, 1]
    assert api.post(f"{path}/execute", json={"message": "hello"}).status_code == 200
    assert CANARY in str(own.requests[-1]["headers"])


def test_versions_are_read_in_pages(api: httpx.Client) -> None:
    agent = make(api, "paged")
    path = f"/agents/{agent['id']}"
    for number in range(6):
        api.patch(path, json={"description": str(number)})
    seen, query = [], f"{path}/versions?limit=3&include_total=true"
    while query:
        response = api.get(query)
        assert response.json()["total"] == 7
        seen += [version["version"] for version in response.json()["items"]]
        query = response.links.get("next", {}).get("url", "").removeprefix("/api/v1")
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    ascending = api.get(f"{path}/versions", params={"sort_order": "asc", "limit": 2}).json()
    assert [version["version"] for version in ascending["items"]] == [1, 2]
    other = make(api, "paged too")
    foreign = api.get(f"/agents/{other['id']}/versions", params={"cursor": ascending["next_cursor"]})
    assert fields(foreign) == ["cursor"]


@pytest.mark.parametrize("number", ["0", "2", "-1", "2147483648", "9" * 30, "9" * 5000, "x", "1.0"])
def test_a_version_that_is_not_there_is_not_found(api: httpx.Client, number: str) -> None:
    agent = make(api, f"absent {time.monotonic_ns()}")
    response = api.post(f"/agents/{agent['id']}/versions/{number}/restore")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_versions_go_with_their_agent(api: httpx.Client, database_url: str) -> None:
    agent = make(api, "short-lived", description="soon gone")
    path = f"/agents/{agent['id']}"
    assert api.delete(path).status_code == 204
    assert api.get(f"{path}/versions").status_code == 404
    assert api.post(f"{path}/versions/1/restore").status_code == 404
    deadline = time.monotonic() + 5
    while "soon gone" in rows_of(database_url):  # Its events are in the outbox, until they are published.
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_name_that_was_taken_meanwhile_is_a_conflict_and_changes_nothing(api: httpx.Client) -> None:
    agent = make(api, "wanted by two")
    path = f"/agents/{agent['id']}"
    renamed = api.patch(path, json={"name": "stepped aside"}).json()
    make(api, "wanted by two")
    refused = api.post(f"{path}/versions/1/restore")
    assert (refused.status_code, refused.json()["details"]) == (409, {"field": "name"})
    assert api.patch(path, json={"name": "wanted by two"}).status_code == 409
    assert api.get(path).json() == renamed
    assert len(api.get(f"{path}/versions").json()["items"]) == 2


def test_a_change_holds_for_the_version_that_was_seen(api: httpx.Client) -> None:
    agent = make(api, "contested")
    path = f"/agents/{agent['id']}"
    seen = api.get(path).headers["etag"]
    changed = api.patch(path, json={"description": "mine"}, headers={"If-Match": seen})
    assert changed.status_code == 200
    for method, body in (("PATCH", {}), ("PUT", {"name": "contested"}), ("DELETE", None)):
        assert api.request(method, path, json=body, headers={"If-Match": seen}).status_code == 412
    assert api.get(path).json() == changed.json()
    assert api.delete(path, headers={"If-Match": changed.headers["etag"]}).status_code == 204


def test_a_run_is_of_the_version_that_was_accepted(
    server: Server, api: httpx.Client, model: ModelServer, database_url: str
) -> None:
    agent = make(api, "changing", system_prompt="be brief", model_config={"provider": "openai", "model": "m"})
    path = f"/agents/{agent['id']}"
    model.script(Reply("one two three", delay=5))
    with api.stream("POST", f"{path}/execute/stream", json={"message": path}) as stream:
        next(stream.iter_lines())
        execution = stream.headers["content-location"].rpartition("/")[2]
    asked = wait_for_request(model, path)
    server.stop(signal.SIGKILL)
    lose_leases(database_url)
    server.start()
    with server.client() as again:
        # Changed between two attempts of one run.
        again.patch(path, json={"system_prompt": "be verbose", "model_config": {"model": "n"}})
        deadline = time.monotonic() + 25
        while (ended := again.get(f"/executions/{execution}").json())["status"] not in {"completed", "failed"}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (ended["status"], ended["agent_version"], ended["attempt"]) == ("completed", 1, 2)
    assert (model.requests[-1]["model"], model.requests[-1]["messages"]) == (asked["model"], asked["messages"])


def test_an_agent_of_a_node_that_keeps_no_versions_runs_all_the_same(api: httpx.Client, database_url: str) -> None:
    agent = make(api, "of an older node", model_config={"provider": "openai", "model": "m"})
    execute(database_url, f"DELETE FROM agent_versions WHERE agent_id = '{agent['id']}'")
    assert status_of(api, f"/agents/{agent['id']}") == 200


def wait_for_request(model: ModelServer, text: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if model.requests and text in str(model.requests[-1]["messages"]):
            return model.requests[-1]
        time.sleep(0.05)
    raise AssertionError(f"The model was not asked {text}")


# Lists


def test_agents_are_found_by_text_in_name_or_description_whatever_its_case(api: httpx.Client) -> None:
    make(api, "Übersetzer 100% Ä_B", description="translates")
    make(api, "other one", description="also an ÜBERSETZER, with a \\ and a 'quote'")
    make(api, "third")

    def found(text: str) -> set[str]:
        return {agent["name"] for agent in api.get("/agents", params={"search": text}).json()["items"]}

    both = {"Übersetzer 100% Ä_B", "other one"}
    assert found("übersetzer") == found("BERSETZ") == both
    assert found("100%") == found("ä_b") == {"Übersetzer 100% Ä_B"}
    assert found("\\ and") == found("'quote'") == {"other one"}
    for text in ("%%", "__", "a%b", "ÜB%", "' OR 1=1"):
        assert found(text) == set()
    for text in ("", "x", "x" * 201):
        assert fields(api.get("/agents", params={"search": text})) == ["search"]


def test_agents_are_filtered_by_time_and_status_and_sorted_by_name(api: httpx.Client) -> None:
    first, second = make(api, "filter b"), make(api, "filter a")
    params = {"search": "filter ", "sort_by": "name", "sort_order": "asc"}
    assert [a["name"] for a in api.get("/agents", params=params).json()["items"]] == ["filter a", "filter b"]
    after = api.get("/agents", params={"search": "filter ", "created_after": first["created_at"]}).json()["items"]
    assert [agent["id"] for agent in after] == [second["id"]]
    before = api.get("/agents", params={"search": "filter ", "created_before": second["created_at"]}).json()["items"]
    assert [agent["id"] for agent in before] == [first["id"]]
    assert api.get("/agents", params={"search": "filter ", "status": "error"}).json()["items"] == []


# Last, for they stop the server


def test_secrets_follow_a_change_of_the_secret_key(server: Server, own: ModelServer, database_url: str) -> None:
    with server.client() as api:
        agent = make(api, "rotated", model_config=with_key(own))
        path = f"/agents/{agent['id']}"
        api.patch(path, json={"description": "a second version"})
        assert status_of(api, path) == 200
        config = {"method": "POST", "url": f"{own.url}/tool", "headers": {"X-Key": CANARY}, "body": {}}
        tool = {"name": "rotated", "kind": "http", "schema": {"type": "object"}, "config": config}
        invoke = f"/tools/{api.post('/tools', json=tool).json()['id']}/invoke"
        mcp_server = mcp.register(api, own.url, authentication={"type": "headers", "headers": {"X-Key": CANARY}})
        check = f"/mcp-servers/{mcp_server['id']}/health"
    # Without the old key nothing opens, and it says what to do.
    server.environment |= {"AI_AGENT_SECRET_KEY": NEWER}
    restart(server)
    with server.client() as api:
        answer = api.post(f"{path}/execute", json={"message": "hello"})
        assert answer.status_code == 502
        assert "AI_AGENT_SECRET_KEY_FALLBACKS" in answer.json()["message"]
        assert api.get(path).status_code == 200
        assert "cannot be read" in api.post(invoke, json={}).json()["output"]
        assert "cannot be read" in api.get(check).json()["last_error"]
    refused = server.command("rotate-secrets")
    assert refused.returncode == 1
    assert [line.partition(":")[0] for line in refused.stderr.splitlines()] == ["Error", "Hint"]
    assert "AI_AGENT_SECRET_KEY_FALLBACKS" in refused.stderr
    # With it among the fallbacks all goes on, API keys, too; and then it is not needed any more.
    server.environment |= {"AI_AGENT_SECRET_KEY_FALLBACKS": SECRET}
    restart(server)
    with server.client() as api:
        assert status_of(api, path) == 200
    done = server.command("rotate-secrets", check=True)
    tables = ["agents", "agent_versions", "tools", "mcp_servers"]
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == tables
    assert not any(line.endswith(" 0 re-encrypted") for line in done.stdout.splitlines())
    again = server.command("rotate-secrets", check=True)
    assert all(line.endswith(" 0 re-encrypted") for line in again.stdout.splitlines())
    with server.client() as api:
        assert status_of(api, path) == 200
    server.environment |= {"AI_AGENT_SECRET_KEY_FALLBACKS": ""}
    restart(server)
    with server.client() as api:
        assert status_of(api, path) == 200
        assert api.post(f"{path}/versions/1/restore").status_code == 200
        assert status_of(api, path) == 200
        assert api.post(invoke, json={}).status_code == 200
        assert own.requests[-1]["headers"]["x-key"] == CANARY
        assert "cannot be read" not in api.get(check).json()["last_error"]
        assert own.requests[-1]["headers"]["x-key"] == CANARY
    assert CANARY not in dump(database_url)


def test_an_address_that_is_no_longer_allowed_is_not_connected_to(
    server: Server, api: httpx.Client, own: ModelServer
) -> None:
    agent = make(api, "shut in", model_config=with_key(own))
    server.stop()
    server.environment["AI_AGENT_OUTBOUND_ALLOW"] = ""
    server.start()
    before = len(own.requests)
    with server.client() as again:
        answer = again.post(f"/agents/{agent['id']}/execute", json={"message": "hello"})
        assert (answer.status_code, answer.json()["code"]) == (502, "external_service_error")
        assert answer.json()["details"]["is_retryable"] is False
        assert "127.0.0.1" not in answer.text
        assert fields(again.patch(f"/agents/{agent['id']}", json={"model_config": {"top_p": 0.5}})) == [
            "model_config.base_url"
        ]
    assert len(own.requests) == before


def test_a_write_that_changes_nothing_makes_no_version(api: httpx.Client) -> None:
    wanted: dict[str, Any] = {
        "name": "same",
        "description": "d",
        "metadata": {"b": 1, "a": {"c": [1.5]}},
        "tools": ["t"],
    }
    agent = make(api, **wanted)
    path = f"/agents/{agent['id']}"
    for method, body in (("PATCH", {}), ("PATCH", {"description": "d"}), ("PUT", wanted)):
        assert api.request(method, path, json=body).json() == api.get(path).json()
    assert api.get(path).json()["version"] == 1
    assert len(api.get(f"{path}/versions").json()["items"]) == 1
    assert api.patch(path, json={"description": None}).json()["version"] == 2


def status_of(api: httpx.Client, path: str) -> int:
    return api.post(f"{path}/execute", json={"message": "hello"}).status_code


def restart(server: Server) -> None:
    server.stop()
    server.start()


def test_an_agent_from_before_there_were_versions_has_one_after_the_upgrade(
    database_url: str, empty_postgres: str, tmp_path: Path
) -> None:
    sqlite = database_url.startswith("sqlite")
    url = f"sqlite:///{tmp_path}/old.db" if sqlite else empty_postgres
    asyncio.run(migrations.upgrade(url, "0002"))
    values = "'0190a000-0000-7000-8000-000000000001', 'owner', 'Öld', '{\"model\": \"m\"}', '[]', 5, '{}', "
    values += "'2026-01-01T00:00:00.000000Z', '2026-01-02T00:00:00.000000Z'"
    columns = "id, owner_id, name, model_config, tools, version, metadata, created_at, updated_at"
    execute(url, f"INSERT INTO agents ({columns}) VALUES ({values})")
    for _ in range(2):
        asyncio.run(migrations.upgrade(url))
        kept = execute(url, "SELECT version, name, model_config, created_at FROM agent_versions")
        assert [(row[0], row[1], json.loads(row[2]), str(row[3])[:10]) for row in kept] == [
            (5, "Öld", {"model": "m"}, "2026-01-02")
        ]
        assert execute(url, "SELECT search_text FROM agents") == [("öld\n",)]
        asyncio.run(migrations.downgrade(url, "0002"))
        assert execute(url, "SELECT name, version FROM agents") == [("Öld", 5)]
