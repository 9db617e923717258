"""What a request costs first: how often it waits for the database, and for Redis."""

import json
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from ai_agent.security.api_keys import generate
from tests.conftest import Server, create_database
from tests.round_trips import RoundTrips

BEGIN = COMMIT = 1


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[RoundTrips]:
    # What is told of a change is published behind the answer.
    with RoundTrips(urlsplit(postgres_url).port or 5432, except_for=[b"FROM outbox"]) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def redis(valkey_url: str) -> Iterator[RoundTrips]:
    # Twice a second a node looks after its log. What a request tells the log counts.
    with RoundTrips(urlsplit(valkey_url).port or 6379, except_for=[b":{}:events", b"PING"]) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def api(
    database: RoundTrips, redis: RoundTrips, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    name = create_database(postgres_url).rpartition("/")[2]
    # One connection, whose statements are prepared once; and no worker, which asks for runs meanwhile.
    server = Server(
        f"postgresql://postgres@127.0.0.1:{database.port}/{name}",
        tmp_path_factory.mktemp("server"),
        "--no-worker",
        AI_AGENT_DB_POOL_SIZE="1",
        AI_AGENT_REDIS_URL=f"redis://127.0.0.1:{redis.port}/0",
    )
    with server.client() as client:
        yield client
    server.stop()


@pytest.fixture(scope="module")
def paths(api: httpx.Client) -> dict[str, str]:
    session = api.post("/sessions", json={}).json()["id"]
    message = api.post(f"/sessions/{session}/messages", json={"content": "x"}).json()["id"]
    agent = api.post("/agents", json={"name": "counted"}).json()["id"]
    return {
        "session": f"/sessions/{session}",
        "messages": f"/sessions/{session}/messages",
        "message": f"/messages/{message}",
        "agent": f"/agents/{agent}",
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "trips"),
    [
        ("GET", "{session}", None, 1),
        ("GET", "/sessions?limit=20", None, 1),
        ("GET", "{messages}", None, 1),
        ("GET", "{message}", None, 1),
        ("GET", "{agent}", None, 1),
        ("GET", "/sessions?include_total=true", None, 2),
        ("POST", "/sessions", {"title": "x"}, 1),
        ("POST", "{messages}", {"content": "x"}, BEGIN + 2 + COMMIT),
        ("PUT", "{session}", {"title": "x"}, BEGIN + 1 + COMMIT),
        ("PATCH", "{session}", {"title": "x"}, BEGIN + 2 + COMMIT),
        ("PATCH", "{message}", {"content": "x"}, BEGIN + 3 + COMMIT),
        ("POST", "/sessions/bulk-create", [{}] * 50, BEGIN + 1 + COMMIT),
        ("POST", "{messages}/bulk-create", [{"content": "common"}] * 60, BEGIN + 3 + COMMIT),
        ("POST", "{session}/fork", {}, BEGIN + 7 + COMMIT),
        ("GET", "{message}/thread", None, 3),
        ("GET", "/sessions?search=xx&metadata=a:b&metadata=c:d", None, 1),
        ("GET", "{messages}?search=common", None, 1),
        ("GET", "/messages?search=common", None, 2),
        ("GET", "/messages?search=x1y2z3", None, 1 + BEGIN + 1 + COMMIT),
        ("PUT", "{agent}", {"name": "counted", "description": "put #"}, BEGIN + 3 + COMMIT),
        ("PATCH", "{agent}", {"description": "patched #"}, BEGIN + 3 + COMMIT),
        ("PATCH", "{agent}", {}, BEGIN + 2 + COMMIT),
        ("GET", "{agent}/versions", None, 1),
        ("POST", "{agent}/versions/1/restore", None, BEGIN + 3 + COMMIT),
        ("GET", "/health/live", None, 0),
    ],
)
def test_a_request_waits_no_more_often_than_it_must(
    api: httpx.Client,
    database: RoundTrips,
    redis: RoundTrips,
    paths: dict[str, str],
    method: str,
    path: str,
    body: object,
    trips: int,
) -> None:
    address, text = path.format(**paths), json.dumps(body)
    # What changes nothing costs less: `#` is another number each time.
    bodies = [json.loads(text.replace("#", str(number))) for number in range(24)]
    for warm in bodies[:2]:  # Preparing a statement takes a trip, once; so does looking up a key.
        api.request(method, address, json=warm)
    # The server looks twice a second for credentials that have changed, and publishes behind its answer, perhaps just
    # now: the least of six counts, and of more where that is too many.
    expected, counted = (trips, 0 if "health" in path else 1), []
    for body in bodies[2:]:
        counted.append(trips_of(api, method, address, body, database, redis))
        least = tuple(map(min, zip(*counted, strict=True)))
        if len(counted) >= 6 and least <= expected:
            break
    assert least == expected


def trips_of(
    api: httpx.Client, method: str, address: str, body: object, database: RoundTrips, redis: RoundTrips
) -> tuple[int, int]:
    time.sleep(0.05)  # What the request before has told is published meanwhile.
    before = database.count, redis.count
    assert api.request(method, address, json=body).status_code < 300
    return database.count - before[0], redis.count - before[1]


def test_a_mistyped_key_costs_no_query(api: httpx.Client, database: RoundTrips) -> None:
    unknown = generate("test")
    typo = unknown[:-1] + ("0" if unknown[-1] != "0" else "1")
    for key, trips in ((unknown, 1), (typo, 0), ("sk-test-" + "A" * 30, 0), ("nonsense", 0)):
        counts = []
        for _ in range(4):  # The first prepares the statement, too.
            before = database.count
            assert api.get("/sessions", headers={"Authorization": f"Bearer {key}"}).status_code == 401
            counts.append(database.count - before)
        assert min(counts) == trips
