"""Whatever is wrong with a request, the answer is the contract's error, and nothing of the inside."""

import asyncio
import re
import socket
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from litestar import get

from ai_agent.api.guards import PUBLIC
from ai_agent.app import create_app
from ai_agent.settings import load_settings
from tests.conftest import KEY, SECRET, Server
from tests.contract.document import DOCUMENT

JSON = {"Content-Type": "application/json"}
NOBODY = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def assert_contract(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = dict(response.json())
    assert body["error"] is True
    assert body["code"] == code
    assert body["message"]
    assert body["correlation_id"] == response.headers["x-correlation-id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["timestamp"])
    assert body["path"] == response.request.url.path
    assert "details" in body
    assert ("validation_errors" in body) == (code == "validation_error")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-security-policy"] == "default-src 'none'"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert float(response.headers["x-process-time"]) >= 0
    assert "server" not in response.headers
    return body


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nope", {}, 404, "not_found"),
        ("GET", "/sessions/not-an-id", {}, 404, "not_found"),
        ("GET", f"/sessions/{NOBODY}", {}, 404, "not_found"),
        ("GET", f"/sessions/{NOBODY}/messages", {}, 404, "not_found"),
        ("POST", f"/sessions/{NOBODY}/messages", {"json": {"content": "x"}}, 404, "not_found"),
        ("GET", f"/messages/{NOBODY}", {}, 404, "not_found"),
        ("PATCH", f"/agents/{NOBODY}", {"json": {}}, 404, "not_found"),
        ("POST", f"/agents/{NOBODY}/execute", {"json": {"message": "x"}}, 404, "not_found"),
        ("GET", f"/executions/{NOBODY}", {}, 404, "not_found"),
        ("GET", f"/executions/{NOBODY}/events", {}, 404, "not_found"),
        ("POST", f"/executions/{NOBODY}/cancel", {}, 404, "not_found"),
        ("DELETE", "/sessions", {}, 405, "method_not_allowed"),
        ("TRACE", "/sessions", {}, 405, "method_not_allowed"),
        ("POST", "/sessions", {"content": b"", "headers": JSON}, 400, "malformed_request"),
        ("POST", "/sessions", {"content": b"{", "headers": JSON}, 400, "malformed_request"),
        ("POST", "/sessions", {"content": b'{"title": 5', "headers": JSON}, 400, "malformed_request"),
        ("POST", "/sessions", {"content": b'{"title":"\xff"}', "headers": JSON}, 400, "malformed_request"),
        ("POST", "/sessions", {"content": b'{"title":"\\ud800"}', "headers": JSON}, 400, "malformed_request"),
        ("POST", "/sessions", {"content": b"[" * 1000 + b"]" * 1000, "headers": JSON}, 400, "malformed_request"),
        (
            "POST",
            "/sessions",
            {"content": b"{}", "headers": {"Content-Type": "text/plain"}},
            415,
            "unsupported_media_type",
        ),
        ("POST", "/sessions", {"data": {"title": "x"}}, 415, "unsupported_media_type"),
        ("POST", "/sessions", {"files": {"title": b"x"}}, 415, "unsupported_media_type"),
        ("POST", "/sessions", {"content": b" " * 2_097_153, "headers": JSON}, 413, "payload_too_large"),
        ("POST", "/sessions", {"content": b'{"metadata":{"a":1e999}}', "headers": JSON}, 422, "validation_error"),
        ("POST", "/sessions", {"content": b"[]", "headers": JSON}, 422, "validation_error"),
        ("GET", "/sessions", {"headers": {"Authorization": "Basic eDp5"}}, 401, "authentication_error"),
        ("GET", "/sessions", {"headers": {"Authorization": "Bearer nonsense"}}, 401, "authentication_error"),
        ("GET", "/sessions", {"headers": {"Authorization": KEY}}, 401, "authentication_error"),
    ],
)
def test_a_bad_request_gets_the_contracts_error(
    shared: httpx.Client, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    assert_contract(shared.request(method, path, **options), status, code)


def test_a_wrong_method_is_told_the_right_ones(shared: httpx.Client) -> None:
    assert shared.delete("/sessions").headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_a_missing_credential_is_asked_for(shared: httpx.Client) -> None:
    assert shared.get("/sessions", headers={"Authorization": ""}).headers["www-authenticate"] == "Bearer"


def test_a_body_that_grows_beyond_the_limit_is_refused_without_a_content_length(shared: httpx.Client) -> None:
    chunks = (b" " * 65536 for _ in range(40))
    assert_contract(shared.post("/sessions", content=chunks, headers=JSON), 413, "payload_too_large")


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/sessions", {"title": 5, "metadata": [], "extra": 1}, {"title", "metadata", "extra"}),
        ("/sessions", {"title": "x" * 501}, {"title"}),
        ("/sessions", {"user_id": ""}, {"user_id"}),
        ("/sessions", {"metadata": {"a": "x" * 16384}}, {"metadata"}),
        ("/sessions", {"title": "a\0b", "metadata": {"x": ["\0"]}}, {"title", "metadata.x[0]"}),
        ("/agents", {"name": "   "}, {"name"}),
        (
            "/agents",
            {"name": "a", "model_config": {"temperature": 9, "provider": "x", "api_key": "the canary"}, "tools": [1]},
            {"model_config.temperature", "model_config.provider", "model_config.api_key", "tools[0]"},
        ),
        ("/agents", {}, {"name"}),
    ],
)
def test_all_bad_fields_of_a_body_are_named_at_once(
    shared: httpx.Client, path: str, body: dict[str, Any], fields: set[str]
) -> None:
    answered = assert_contract(shared.post(path, json=body), 422, "validation_error")
    assert {error["field"] for error in answered["validation_errors"]} == fields
    assert all(error["message"] for error in answered["validation_errors"])
    assert "canary" not in str(answered)


def test_all_bad_fields_of_a_patched_object_are_named_at_once(shared: httpx.Client) -> None:
    agent = shared.post("/agents", json={"name": "patched"}).json()["id"]
    patch = {"model_config": {"temperature": 9, "top_p": 9, "nope": 1}}
    answered = assert_contract(shared.patch(f"/agents/{agent}", json=patch), 422, "validation_error")
    fields = {error["field"] for error in answered["validation_errors"]}
    assert fields == {"model_config.temperature", "model_config.top_p", "model_config.nope"}


def test_a_secret_inside_a_bad_value_is_not_shown_and_a_count_of_tokens_is(shared: httpx.Client) -> None:
    refused = shared.post("/sessions", json={"metadata": [{"password": "hunter2"}]})
    assert refused.status_code == 422
    assert "hunter2" not in refused.text
    error = shared.post("/agents", json={"name": "x", "model_config": {"max_tokens": -5}}).json()["validation_errors"][
        0
    ]
    assert (error["field"], error["value"]) == ("model_config.max_tokens", -5)


def test_a_bad_value_is_shown_in_part(shared: httpx.Client) -> None:
    error = shared.post("/sessions", json={"title": "x" * 600}).json()["validation_errors"][0]
    assert error["value"] == "x" * 200


RESOURCES: dict[str, tuple[str, dict[str, object]]] = {
    "Session": ("/sessions", {"title": "mine"}),
    "Message": ("/messages", {"content": "mine"}),
    "Agent": ("/agents", {"name": "mine"}),
    "Tool": ("/tools", {"name": "current_time", "kind": "builtin"}),
    "McpServer": (
        "/mcp-servers",
        {"name": "mine", "transport": "streamable_http", "endpoint": "https://a.example", "enabled": False},
    ),
}
"""Where each is, and what it is made of."""


def output_only() -> list[tuple[str, str]]:
    """The fields that the server alone sets, as the document tells them."""
    fields = {name: set(schema.get("properties", ())) for name, schema in DOCUMENT["components"]["schemas"].items()}
    return [
        (name, field)
        for name in RESOURCES
        for field in sorted(fields[name] - fields[f"Patch{name}"] | {"owner_id", "row_version"})
        # Given with what is made, and never changed.
        if field not in {"session_id", "parent_message_id", "role", "tool_calls", "kind", "transport"}
    ]


@pytest.mark.parametrize(("name", "field"), output_only())
def test_what_is_output_only_cannot_be_written(shared: httpx.Client, name: str, field: str) -> None:
    path, body = RESOURCES[name]
    session = shared.post("/sessions", json={}).json()["id"]
    collection = f"/sessions/{session}/messages" if name == "Message" else path
    made = shared.post(collection, json=body).json()
    one = f"{path}/{made['id']}"
    try:
        for answer in (
            shared.patch(one, json={field: 1}),
            shared.put(one, json=body | {field: 1}),
            shared.post(collection, json=body | {field: 1}),
        ):
            told = assert_contract(answer, 422, "validation_error")["validation_errors"]
            assert [error["field"] for error in told] == [field]
        assert shared.get(one).json() == made
    finally:
        shared.delete(one)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/sessions?limit=0", {"limit"}),
        ("/sessions?limit=101", {"limit"}),
        ("/sessions?offset=10001", {"offset"}),
        (
            "/sessions?limit=x&offset=-1&sort_by=title&include_total=perhaps",
            {"limit", "offset", "sort_by", "include_total"},
        ),
        ("/sessions?nope=1&also=2", {"nope", "also"}),
        ("/sessions?limit=1&limit=2", {"limit"}),
        ("/sessions?user_id=%00", {"user_id"}),
        ("/sessions?cursor=forged", {"cursor"}),
        ("/sessions?created_after=yesterday", {"created_after"}),
        ("/sessions?created_after=2026-01-01T00:00:00", {"created_after"}),
        ("/sessions?created_after=0001-01-01T00:00:00%2B14:00", {"created_after"}),
        (f"/sessions/{NOBODY}?fields=id", {"fields"}),
        (f"/sessions/{NOBODY}/messages?limit=201", {"limit"}),
        ("/agents?status=asleep", {"status"}),
        ("/sessions?status=null&created_after=null", {"status", "created_after"}),
        ("/sessions?created_after=1767225600&created_before=1.5e9", {"created_after", "created_before"}),
    ],
)
def test_all_bad_parameters_of_a_query_are_named_at_once(shared: httpx.Client, path: str, fields: set[str]) -> None:
    answered = assert_contract(shared.get(path), 422, "validation_error")
    assert {error["field"] for error in answered["validation_errors"]} == fields


def test_problem_json_is_given_to_those_who_ask(shared: httpx.Client) -> None:
    headers = {"Accept": "application/problem+json"}
    response = shared.post("/sessions", json={"title": 5}, headers=headers)
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["instance"], body["code"]) == (422, "/api/v1/sessions", "validation_error")
    assert body["title"] == "Unprocessable Entity"
    assert {"type", "title", "detail", "validation_errors"} <= body.keys()


@pytest.mark.parametrize("sent", ["abc-1.2:3_4", "x" * 128])
def test_a_correlation_id_comes_back(shared: httpx.Client, sent: str) -> None:
    response = shared.get("/nope", headers={"X-Correlation-ID": sent})
    assert response.headers["x-correlation-id"] == sent == response.json()["correlation_id"]


@pytest.mark.parametrize("sent", ["with space", "x" * 129, "päth", ""])
def test_a_malformed_correlation_id_is_replaced(shared: httpx.Client, sent: str) -> None:
    made = shared.get("/nope", headers={b"X-Correlation-ID": sent.encode()}).headers["x-correlation-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)


def test_head_works_where_get_does(shared: httpx.Client) -> None:
    session = shared.post("/sessions", json={}).json()
    path = f"/sessions/{session['id']}"
    head = shared.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == shared.get(path).headers["content-length"]
    assert shared.head("/nope").status_code == 404


def test_a_trailing_slash_is_accepted(shared: httpx.Client) -> None:
    assert shared.get("/sessions/").status_code == 200


def test_what_is_not_http_is_answered_in_json(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert b'"code":"malformed_request"' in body


def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_crash(server: Server, shared: httpx.Client) -> None:
    port = int(server.url.rpartition(":")[2])
    lines = [
        "POST /api/v1/sessions HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
    ]
    head = "\r\n".join([*lines, "Content-Length: 100", "X-Correlation-ID: left-early", "", '{"title"'])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode())
    for _ in range(50):
        shared.get("/health/live")
        line = next((line for line in server.log.read_text().splitlines() if "left-early" in line), None)
        if line:
            break
    assert line is not None
    assert "request_crashed" not in server.log.read_text()


def test_a_crash_tells_nothing_of_the_inside(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    @get("/crash", opt=PUBLIC)
    async def crash() -> None:
        raise RuntimeError("the password is hunter2")

    async def ask() -> httpx.Response:
        app = create_app(load_settings({"AI_AGENT_DATA_DIR": str(tmp_path), "AI_AGENT_SECRET_KEY": SECRET}))
        app.register(crash)
        transport = httpx.ASGITransport(cast("Any", app))
        async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/crash")

    response = asyncio.run(ask())
    assert_contract(response, 500, "internal_error")
    assert "hunter2" not in response.text
    logged = capsys.readouterr().out
    assert "hunter2" in logged
    assert response.headers["x-correlation-id"] in logged
