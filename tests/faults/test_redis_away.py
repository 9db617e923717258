"""Redis killed, frozen, flushed under load on two nodes: nobody is refused for it, and a revoked key is, everywhere."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import KEY, Server, create_database
from tests.servers import ValkeyServer

CLIENTS = 8
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def nodes(postgres_url: str, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    database_url = create_database(postgres_url)
    both = [
        Server(
            database_url, tmp_path_factory.mktemp("node"), AI_AGENT_REDIS_URL=valkey.url, AI_AGENT_LOG_LEVEL="warning"
        )
        for _ in range(2)
    ]
    yield both
    for server in both:
        server.stop()


async def under_load(
    nodes: list[Server], fault: Callable[[], object], seconds: float
) -> tuple[Counter[int], list[float]]:
    """Status codes, and how long the requests took that were sent behind the first second of the fault."""
    codes: Counter[int] = Counter()
    times: list[float] = []
    struck = float("inf")
    end = time.monotonic() + 0.5 + seconds

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=nodes[number % 2].url, headers=HEADERS, timeout=10) as http:
            while time.monotonic() < end:
                began = time.monotonic()
                codes[(await http.get("/api/v1/sessions")).status_code] += 1
                if began > struck + 1:
                    times.append(time.monotonic() - began)
                await asyncio.sleep(0.02)

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    await asyncio.sleep(0.5)
    await asyncio.to_thread(fault)
    struck = time.monotonic()
    await asyncio.gather(*clients)
    return codes, times


def degraded(server: Server) -> bool:
    return bool(httpx.get(f"{server.url}/api/v1/health").json()["degraded"])


def assert_back(nodes: list[Server]) -> None:
    deadline = time.monotonic() + 2
    while any(degraded(server) for server in nodes):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nobody_notices_that_redis_is_killed_three_times(nodes: list[Server], valkey: ValkeyServer) -> None:
    for _ in range(3):
        codes, _ = asyncio.run(under_load(nodes, valkey.kill, 1))
        assert set(codes) == {200}
        assert all(degraded(server) for server in nodes)
        valkey.start()
        assert_back(nodes)


def test_a_frozen_redis_delays_the_first_requests_only(nodes: list[Server], valkey: ValkeyServer) -> None:
    usual, _ = asyncio.run(under_load(nodes, lambda: None, 0.5))
    assert set(usual) == {200}
    _, before = asyncio.run(under_load(nodes, lambda: None, 2))
    with valkey.frozen():
        codes, during = asyncio.run(under_load(nodes, lambda: None, 2))
    assert set(codes) == {200}
    assert statistics.median(during) < statistics.median(before) + 0.005
    assert_back(nodes)


@pytest.mark.parametrize("command", ["FLUSHALL", "SCRIPT FLUSH"])
def test_an_emptied_redis_is_used_on(nodes: list[Server], valkey: ValkeyServer, command: str) -> None:
    codes, _ = asyncio.run(under_load(nodes, lambda: valkey.ask(command), 1))
    assert set(codes) == {200}
    assert not any(degraded(server) for server in nodes)


def test_a_key_is_revoked_on_both_nodes_within_a_second_while_redis_is_away(
    nodes: list[Server], valkey: ValkeyServer
) -> None:
    with nodes[0].client() as admin:
        made = admin.post("/admin/keys", json={"name": "leaked", "scopes": ["sessions:read"]}).json()
        clients = [node.client(made["key"]) for node in nodes]
        valkey.kill()
        try:
            assert [client.get("/sessions").status_code for client in clients] == [200, 200]
            assert admin.delete(f"/admin/keys/{made['id']}").status_code == 204
            revoked = time.monotonic()
            while any(client.get("/sessions").status_code == 200 for client in clients):
                assert time.monotonic() - revoked < 1
                time.sleep(0.02)
            assert [client.get("/sessions").status_code for client in clients] == [401, 401]
        finally:
            valkey.start()
            for client in clients:
                client.close()
