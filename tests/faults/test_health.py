"""What is told of a node whose database and Redis hang: at once, rightly, and no longer than it is so."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.conftest import KEY, Server, create_database
from tests.servers import PostgresServer, ValkeyServer

HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def redis() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(postgres: PostgresServer, redis: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    started = Server(create_database(postgres.url), folder, "--no-worker", AI_AGENT_REDIS_URL=redis.url)
    yield started
    started.stop()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=HEADERS, timeout=10) as client:
        yield client


def seconds_until(http: httpx.Client, path: str, status: int) -> float:
    began = time.monotonic()
    while http.get(path).status_code != status:
        assert time.monotonic() < began + 10
        time.sleep(0.02)
    return time.monotonic() - began


def assert_alive(http: httpx.Client) -> None:
    """Also for who shows a key, which would have to be looked up."""
    took = []
    for _ in range(30):
        began = time.monotonic()
        assert http.get("/health/live").status_code == 200
        took.append(time.monotonic() - began)
    assert statistics.quantiles(took, n=10)[-1] < 0.05, took


def test_a_node_whose_database_and_redis_hang_lives_and_is_not_ready(
    http: httpx.Client, postgres: PostgresServer, redis: ValkeyServer
) -> None:
    assert http.get("/health").json()["status"] == "ok"
    with ExitStack() as hanging:
        hanging.enter_context(postgres.frozen())
        hanging.enter_context(redis.frozen())
        assert seconds_until(http, "/health/ready", 503) < 2
        assert_alive(http)
        refused = http.get("/health/ready").json()
        assert (refused["code"], refused["message"]) == ("service_unavailable", "Not ready: database")
        assert refused["details"] == {"failing": ["database"]}
        began = time.monotonic()
        told = http.get("/health").json()
        assert (told["status"], told["failing"], told["degraded"]) == ("failing", ["database"], ["redis"])
        assert time.monotonic() - began < 2
    assert seconds_until(http, "/health/ready", 200) < 1
    deadline = time.monotonic() + 2
    while http.get("/health").json()["status"] != "ok":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_node_without_redis_is_ready_and_says_that_it_is_degraded(http: httpx.Client, redis: ValkeyServer) -> None:
    with redis.frozen():
        deadline = time.monotonic() + 2
        while not (ready := http.get("/health/ready")).json()["degraded"]:
            assert time.monotonic() < deadline
        assert (ready.status_code, ready.json()["degraded"]) == (200, ["redis"])
        services = http.get("/health/services").json()
        assert services["status"] == "degraded"
        assert {s["kind"]: s["status"] for s in services["services"] if s["kind"] in {"database", "redis"}} == {
            "database": "ok",
            "redis": "failing",
        }


def test_the_services_are_told_though_a_model_hangs(
    postgres: PostgresServer, redis: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A provider that accepts and never answers: here a Redis that is frozen, which takes connections as well."""
    hanging = ValkeyServer()
    base = f"http://127.0.0.1:{hanging.port}/v1"
    server = Server(create_database(postgres.url), tmp_path_factory.mktemp("server"), OPENAI_BASE_URL=base)
    try:
        with hanging.frozen(), server.client() as api:
            began = time.monotonic()
            answer = api.get("/health/services").json()
            assert time.monotonic() - began < 2
        (model,) = [s for s in answer["services"] if s["name"] == "openai"]
        assert (model["status"], model["error"]) == ("failing", "No answer within 1 s")
        assert answer["status"] == "degraded"
    finally:
        server.stop()
        hanging.stop()
