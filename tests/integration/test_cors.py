"""What pages of other origins may do, as their browsers ask."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server
from tests.integration.test_commands import ai_agent, assert_one_line_and_a_hint

PAGE = "https://app.example.com"
OTHER = "https://evil.example.com"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("server")
    server = Server(f"sqlite:///{folder}/x.db", folder, AI_AGENT_CORS_ORIGINS=f"{PAGE},http://localhost:5173")
    with server.client() as client:
        yield client
    server.stop()


def preflight(api: httpx.Client, origin: str, method: str = "PUT", path: str = "/sessions") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Authorization": ""}
    return api.options(path, headers=asked | {"Access-Control-Request-Headers": "authorization,if-match"})


@pytest.mark.parametrize("origin", [PAGE, "HTTPS://app.example.com:443", "http://localhost:5173"])
def test_a_listed_page_is_let_in(api: httpx.Client, origin: str) -> None:
    asked = preflight(api, origin)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, origin)
    assert {"PUT", "DELETE", "PATCH"} <= set(asked.headers["access-control-allow-methods"].split(", "))
    allowed = asked.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key", "if-match", "last-event-id"} <= set(allowed)
    answer = api.get("/sessions", headers={"Origin": origin})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert "Origin" in answer.headers["vary"]
    assert {"etag", "retry-after", "x-correlation-id"} <= set(
        answer.headers["access-control-expose-headers"].lower().split(", ")
    )
    assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-allow-methods" not in answer.headers


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "https://app.example.com.evil.example", "http://app.example.com", f"{PAGE}:8443", "*"]
)
def test_no_other_page_reads_anything(api: httpx.Client, origin: str) -> None:
    for answer in (preflight(api, origin), api.get("/sessions", headers={"Origin": origin})):
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/sessions", "", 401),
        ("GET", "/nowhere", None, 404),
        ("POST", "/health", None, 405),
        ("POST", "/sessions", None, 422),
    ],
)
def test_a_page_can_read_its_errors(api: httpx.Client, method: str, path: str, key: str | None, status: int) -> None:
    headers = {"Origin": PAGE} | ({} if key is None else {"Authorization": key})
    answer = api.request(method, path, headers=headers, json={"title": 7} if method == "POST" else None)
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (status, PAGE)


def test_without_the_setting_nothing_is_said(server: Server) -> None:
    with server.client() as api:
        answers = [preflight(api, PAGE), api.get("/sessions", headers={"Origin": PAGE})]
    assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)


def test_any_page_is_for_development_only(tmp_path: Path) -> None:
    production = {"AI_AGENT_ENVIRONMENT": "production", "AI_AGENT_SECRET_KEY": "x" * 32, "AI_AGENT_CORS_ORIGINS": "*"}
    assert_one_line_and_a_hint(ai_agent(tmp_path, "serve", **production), "AI_AGENT_CORS_ORIGINS")
    assert_one_line_and_a_hint(ai_agent(tmp_path, "serve", AI_AGENT_CORS_ORIGINS="example.com"), "no origin")
    server = Server(f"sqlite:///{tmp_path}/x.db", tmp_path, AI_AGENT_CORS_ORIGINS="*")
    try:
        with server.client() as api:
            answer = api.get("/sessions", headers={"Origin": OTHER})
            assert answer.headers["access-control-allow-origin"] == OTHER
    finally:
        server.stop()
