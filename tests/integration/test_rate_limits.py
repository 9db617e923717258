"""Rate limits of real servers: of one, and of two on one Redis."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.conftest import KEY, Server, create_database
from tests.servers import ValkeyServer

CREATED = "10/minute;100/hour"


def started(folder: Path, database_url: str, **settings: str) -> Server:
    named = {f"AI_AGENT_{name.upper()}": value for name, value in settings.items()}
    return Server(database_url, folder, AI_AGENT_RATE_LIMIT_MULTIPLIER_AUTHENTICATED="1", **named)


@pytest.fixture(scope="module")
def nodes(postgres_url: str, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    database_url = create_database(postgres_url)
    folders = [tmp_path_factory.mktemp("node") for _ in range(2)]
    settings = {"redis_url": valkey.url, "rate_limit_session_create": CREATED}
    both = [started(folder, database_url, **settings) for folder in folders]
    yield both
    for server in both:
        server.stop()


@pytest.fixture
def emptied(valkey: ValkeyServer) -> None:
    valkey.ask("FLUSHALL")


async def at_once(servers: list[Server], count: int) -> list[httpx.Response]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as http:
        calls = [http.post(f"{servers[n % len(servers)].url}/api/v1/sessions", json={}) for n in range(count)]
        return await asyncio.gather(*calls)


def left(server: Server, scope: str) -> dict[str, int]:
    with server.client() as api:
        limits = api.get("/rate-limit").json()["limits"]
    return {limit["limit"]: limit["remaining"] for limit in limits if limit["scope"] == scope}


def test_of_fifty_at_once_on_two_nodes_ten_pass_and_ninety_are_left_of_the_hour(
    nodes: list[Server], emptied: None
) -> None:
    for server in nodes:
        with server.client() as api:
            api.get("/sessions")
    answers = asyncio.run(at_once(nodes, 50))
    assert Counter(answer.status_code for answer in answers) == {201: 10, 429: 40}
    for server in nodes:
        assert left(server, "session_create") == {"10 per 1 minute": 0, "100 per 1 hour": 90}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["details"]["limit"] == "10 per 1 minute"
    assert 55 <= int(refused.headers["retry-after"]) <= 60


def test_every_answer_says_what_is_left_also_one_that_is_an_error(nodes: list[Server], emptied: None) -> None:
    with nodes[0].client() as api:
        before = time.time()
        made = api.post("/sessions", json={})
        assert (made.headers["x-ratelimit-limit"], made.headers["x-ratelimit-remaining"]) == ("10", "9")
        assert before + 59 <= int(made.headers["x-ratelimit-reset"]) <= time.time() + 61
        assert made.headers["ratelimit"] == '"session_create";r=9;t=60'
        bad = api.post("/sessions", json={"title": 7})
        assert (bad.status_code, bad.headers["x-ratelimit-remaining"]) == (422, "8")
        missing = api.get("/sessions/01930e5c-7a10-7000-8000-000000000001")
        assert (missing.status_code, "x-ratelimit-remaining" in missing.headers) == (404, True)
        assert "x-ratelimit-limit" not in api.get("/health").headers


def test_asking_what_is_left_costs_nothing(nodes: list[Server], emptied: None) -> None:
    with nodes[0].client() as api:
        answers = [api.get("/rate-limit").json() for _ in range(3)]
    assert answers[0]["tier"] == "authenticated"
    assert {limit["scope"] for limit in answers[0]["limits"]} >= {"total", "read", "write", "bulk", "execute"}
    assert all(limit["remaining"] == limit["quota"] for answer in answers for limit in answer["limits"])


def test_the_counters_of_redis_hold_no_key_and_end_by_themselves(
    nodes: list[Server], valkey: ValkeyServer, emptied: None
) -> None:
    with nodes[0].client() as api:
        api.get("/sessions")
    kept = [line for line in valkey.ask("KEYS *").decode().split("\r\n") if "ai-agent" in line]
    assert any(line.endswith(":u:admin") for line in kept)
    assert KEY not in "".join(kept)
    assert all(int(valkey.ask(f"PTTL {key}")[1:]) > 0 for key in kept)


def metric(server: Server, line: str) -> float:
    found = [text for text in httpx.get(f"{server.url}/metrics").text.splitlines() if text.startswith(f"{line} ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def logged(server: Server, event: str) -> int:
    return server.log.read_text().count(f'"{event}"')


def until_healthy(server: Server) -> None:
    deadline = time.monotonic() + 3
    while httpx.get(f"{server.url}/api/v1/health").json()["status"] != "ok":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_while_redis_is_frozen_requests_are_served_counted_and_hardly_delayed(
    nodes: list[Server], valkey: ValkeyServer, emptied: None
) -> None:
    server = nodes[0]
    until_healthy(server)
    changes = 'ai_agent_rate_limit_storage_changes_total{to="memory"}'
    before = metric(server, changes), logged(server, "rate_limits_on_memory")
    with server.client() as api:
        api.get("/sessions")
        usual = min(timed(api, "/sessions") for _ in range(20))
        with valkey.frozen():
            assert timed(api, "/sessions") < usual + 0.3
            later = sorted(timed(api, "/sessions") for _ in range(50))
            # Far from the 0.3 s that waiting for Redis would be.
            assert later[len(later) // 2] < usual + 0.05
            health = api.get("/health").json()
            assert (health["status"], health["degraded"]) == ("degraded", ["redis"])
            assert api.get("/health/ready").status_code == 200
            made = [api.post("/sessions", json={}).status_code for _ in range(12)]
            assert Counter(made) == {201: 10, 429: 2}
    until_healthy(server)
    assert (metric(server, changes), logged(server, "rate_limits_on_memory")) == (before[0] + 1, before[1] + 1)


def timed(api: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    assert api.get(path).status_code == 200
    return time.perf_counter() - began


def test_a_bulk_call_is_counted_by_its_items(tmp_path: Path, database_url: str) -> None:
    server = started(tmp_path, database_url, rate_limit_tier_authenticated="20/minute", rate_limit_bulk="3/minute")
    try:
        with server.client() as api:
            assert api.post("/sessions/bulk-create", json=[{}] * 15).status_code == 201
            refused = api.post("/sessions/bulk-create", json=[{}] * 15)
            assert (refused.status_code, refused.json()["details"]["scope"]) == (429, "total")
            never = api.post("/sessions/bulk-create", json=[{}] * 21)
            assert (never.status_code, never.json()["details"]["retry_after"]) == (429, None)
            assert "21" in never.json()["message"]
            assert api.get("/sessions", params={"include_total": True}).json()["total"] == 15
    finally:
        server.stop()


def test_a_limit_that_cannot_be_read_stops_the_start(tmp_path: Path, server: Server) -> None:
    environment = server.environment | {"AI_AGENT_RATE_LIMIT_READ": "often"}
    refused = run(server, environment)
    assert refused.returncode == 1
    assert "AI_AGENT_RATE_LIMIT_READ: 'often' is not a rate limit" in refused.stderr
    assert "Hint:" in refused.stderr


def test_an_address_of_redis_that_cannot_be_read_stops_the_start(server: Server) -> None:
    refused = run(server, server.environment | {"AI_AGENT_REDIS_URL": "somewhere"})
    assert (refused.returncode, "AI_AGENT_REDIS_URL" in refused.stderr) == (1, True)


def run(server: Server, environment: dict[str, str]) -> Any:
    kept, server.environment = server.environment, environment
    try:
        return server.command("serve", "--port", "0")
    finally:
        server.environment = kept


def test_bad_credentials_are_refused_after_some_and_good_ones_from_elsewhere_work(
    tmp_path: Path, database_url: str
) -> None:
    server = started(tmp_path, database_url, rate_limit_auth_failure="19/minute", trusted_proxies="127.0.0.0/8")
    try:
        there, elsewhere = ({"X-Forwarded-For": f"203.0.113.{number}"} for number in (7, 8))
        with server.client("sk-test-bad") as api:
            answers = [api.get("/sessions", headers=there) for _ in range(20)]
        assert Counter(answer.status_code for answer in answers) == {401: 19, 429: 1}
        assert {answer.json()["message"] for answer in answers[:19]} == {"A valid API key or token is required"}
        with server.client() as api:
            assert api.get("/sessions", headers=there).status_code == 429, "nothing from there is looked at"
            assert api.get("/sessions", headers=elsewhere).status_code == 200
            assert api.get("/sessions", headers=there).status_code == 200, "who is known is not asked again"
    finally:
        server.stop()


@pytest.fixture(params=["two nodes", "one process"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Server]]:
    """Servers that share what they know: two on PostgreSQL and Redis, or one on SQLite that is both."""
    if request.param == "two nodes":
        yield request.getfixturevalue("nodes")
        return
    server = started(tmp_path, f"sqlite:///{tmp_path}/x.db", rate_limit_session_create=CREATED)
    yield [server, server]
    server.stop()


@pytest.fixture
def caller(pair: list[Server]) -> Iterator[tuple[str, str]]:
    """A principal's subject, and a key of it; what was overridden is restored."""
    user = f"auth0|{time.monotonic_ns()} ü"
    with pair[0].client() as admin:
        body = {"name": "x", "owner_id": user, "scopes": ["sessions:read", "sessions:write"]}
        key = admin.post("/admin/keys", json=body).json()["key"]
    yield user, key
    with pair[0].client() as admin:
        admin.delete(f"/admin/rate-limits/{quote(user)}")


def created(server: Server, key: str) -> int:
    with server.client(key) as client:
        return client.post("/sessions", json={}).status_code


def quota(server: Server, key: str) -> list[int]:
    with server.client(key) as client:
        limits = client.get("/rate-limit").json()["limits"]
    return [limit["quota"] for limit in limits if limit["scope"] == "session_create"]


def within_a_second(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 1.2
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_limits_of_one_principal_are_overridden_and_restored_on_every_node(
    pair: list[Server], caller: tuple[str, str]
) -> None:
    (user, key), (here, there) = caller, pair
    path = f"/admin/rate-limits/{quote(user)}"
    assert quota(there, key) == [10, 100]  # Both nodes know the key.
    with here.client() as admin:
        asked = {"limits": {"session_create": "2/minute"}, "reason": "posts too much"}
        override = admin.put(path, json=asked).json()
        assert (override["user_id"], override["tier"], override["limits"]) == (user, None, asked["limits"])
        within_a_second(lambda: quota(there, key) == [2])
        assert [created(server, key) for server in (here, there, here, there)] == [201, 201, 429, 429]
        looked = admin.get(path).json()
        assert (looked["tier"], looked["override"]) == ("authenticated", override)
        (left_over,) = [limit for limit in looked["limits"] if limit["scope"] == "session_create"]
        assert (left_over["limit"], left_over["remaining"]) == ("2 per 1 minute", 0)
        assert created(there, KEY) == 201  # Nobody else's.
        again = admin.put(path, json={"tier": "premium"}).json()
        assert (again["id"], again["limits"], again["tier"]) == (override["id"], {}, "premium")
        within_a_second(lambda: quota(there, key) == [500, 5000])
        with there.client(key) as client:
            assert client.get("/rate-limit").json()["tier"] == "premium"
        assert admin.get("/admin/rate-limits", params={"user_id": user}).json()["items"] == [again]
        assert admin.delete(path).status_code == 204
        within_a_second(lambda: quota(there, key) == [10, 100])
        assert admin.get(path).json()["override"] is None
        assert admin.delete(path).status_code == 404
        log = admin.get("/admin/audit-log", params={"target_id": user}).json()["items"]
        assert [entry["action"] for entry in log] == ["rate_limits.restored", *["rate_limits.overridden"] * 2]
        assert log[-1]["details"]["reason"] == "posts too much"


def test_an_override_ends_by_itself_and_outlives_a_restart(pair: list[Server], caller: tuple[str, str]) -> None:
    (user, key), server = caller, pair[0]
    path = f"/admin/rate-limits/{quote(user)}"
    with server.client() as admin:
        admin.put(path, json={"limits": {"session_create": "3/minute"}})
    server.stop()
    server.start()
    assert quota(server, key) == [3]
    with server.client() as admin:
        end = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
        assert admin.put(path, json={"limits": {"session_create": "4/minute"}, "expires_at": end}).status_code == 200
    within_a_second(lambda: quota(server, key) == [4])
    time.sleep(2)
    assert quota(server, key) == [10, 100]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "limits"),
        ({"limits": {}}, "limits"),
        ({"limits": {"read": "a lot"}}, "limits.read"),
        ({"limits": {"read": "0/minute"}}, "limits.read"),
        ({"limits": {"reads": "1/minute"}}, "limits.reads"),
        ({"tier": "gold"}, "tier"),
        ({"tier": "premium", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ],
)
def test_an_override_that_says_nothing_is_refused(nodes: list[Server], body: dict[str, Any], field: str) -> None:
    with nodes[0].client() as admin:
        refused = admin.put("/admin/rate-limits/somebody", json=body)
        assert refused.status_code == 422, refused.text
        assert [error["field"] for error in refused.json()["validation_errors"]] == [field]
        assert admin.get("/admin/rate-limits/somebody").json()["override"] is None


@pytest.mark.parametrize("user", ["x" * 256, "a%00b"])
def test_what_is_no_principal_has_no_limits(nodes: list[Server], user: str) -> None:
    with nodes[0].client() as admin:
        for answer in (
            admin.put(f"/admin/rate-limits/{user}", json={"tier": "premium"}),
            admin.get(f"/admin/rate-limits/{user}"),
        ):
            assert answer.status_code in {404, 422}, answer.text
