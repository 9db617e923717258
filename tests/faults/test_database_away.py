"""PostgreSQL frozen, killed, restarted: what needs it says 503 in time, the rest answers, and it heals by itself."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Server, create_database
from tests.servers import PostgresServer

LONGEST_SECONDS = 2.5


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(create_database(postgres.url), tmp_path_factory.mktemp("server"), AI_AGENT_DB_POOL_SIZE="2")
    yield started
    started.stop()


@pytest.fixture
def session(server: Server) -> str:
    with server.client() as api:
        return str(api.post("/sessions", json={"title": "kept"}).json()["id"])


def assert_unavailable(api: httpx.Client, method: str, path: str) -> None:
    asked = time.monotonic()
    response = api.request(method, path, json={} if method == "POST" else None)
    assert time.monotonic() - asked < LONGEST_SECONDS
    assert (response.status_code, response.json()["code"]) == (503, "service_unavailable"), response.text
    assert int(response.headers["retry-after"]) > 0


def assert_alive_and_not_ready(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=5) as client:
        asked = time.monotonic()
        assert client.get("/health/live").status_code == 200
        assert time.monotonic() - asked < 0.5
        assert client.get("/health/ready").status_code == 503


def assert_healed(api: httpx.Client, session: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while api.get(f"/sessions/{session}").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert api.get(f"/sessions/{session}").json()["title"] == "kept"
    assert api.post("/sessions", json={}).status_code == 201


def test_a_frozen_database_answers_503_in_time_and_heals(
    server: Server, postgres: PostgresServer, session: str
) -> None:
    with server.client() as api:
        with postgres.frozen():
            for _ in range(2):
                assert_unavailable(api, "GET", f"/sessions/{session}")
                assert_unavailable(api, "POST", "/sessions")
            assert_alive_and_not_ready(server)
        assert_healed(api, session, seconds=2)


def test_a_killed_database_answers_503_at_once_and_heals_when_it_is_back(
    server: Server, postgres: PostgresServer, session: str
) -> None:
    with server.client() as api:
        postgres.process.kill()
        postgres.process.wait(10)
        assert_unavailable(api, "GET", f"/sessions/{session}")
        assert_unavailable(api, "POST", "/sessions")
        assert_alive_and_not_ready(server)
        postgres.start()
        assert_healed(api, session, seconds=2)
    assert "request_crashed" not in server.log.read_text()
