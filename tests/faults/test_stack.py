"""The stack of `docker/compose.yaml`, by its own commands, settings, health checks and proxy, without containers."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests import scenarios
from tests.compose import Service, Stack
from tests.conftest import GENEROUS, KEY, SECRET, create_database
from tests.model_server import ModelServer, Reply
from tests.runs import SSE, make_agent
from tests.servers import ValkeyServer
from tests.sockets import JSON, Socket

HEADERS = {"Authorization": f"Bearer {KEY}"}
CLIENT = "127.0.0.7"
FORGED = {"X-Forwarded-For": "203.0.113.9"}


@pytest.fixture(scope="module")
def stack(
    postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    filled_in = {"AI_AGENT_SECRET_KEY": SECRET, "AI_AGENT_BOOTSTRAP_API_KEY": KEY, **GENEROUS}
    models = {"OPENAI_BASE_URL": f"{model.url}/v1", "AI_AGENT_OUTBOUND_ALLOW": "127.0.0.1/32"}
    folder = tmp_path_factory.mktemp("stack")
    made = Stack(create_database(postgres_url), valkey.url, folder, **filled_in, **models)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def api(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=HEADERS, timeout=30) as client:
        yield client


def test_a_stream_comes_through_the_proxy_piece_by_piece(api: httpx.Client, model: ModelServer) -> None:
    model.script(Reply("one two three", pause_after=2))
    agent_id = make_agent(api)
    heard: list[str] = []
    asked = time.monotonic()
    with api.stream("POST", f"/agents/{agent_id}/execute/stream", json={"message": "x"}, headers=SSE) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and (event := json.loads(line[6:]))["type"] == "execution.token":
                heard.append(event["data"]["text"])
                model.go_on.set()  # The model goes on when the first piece has come through.
    assert "".join(heard).split() == ["one", "two", "three"]
    assert time.monotonic() - asked < 10, "The first piece waited for the last one"


def test_the_proxy_says_who_the_client_is_and_believes_nobody(stack: Stack) -> None:
    where = (urlsplit(stack.url).hostname, urlsplit(stack.url).port)
    raw = socket.create_connection(where, source_address=(CLIENT, 0))
    url = stack.url.replace("http", "ws", 1) + "/ws"
    with connect(url, sock=raw, subprotocols=[Subprotocol(JSON)], additional_headers=FORGED) as connection:
        assert Socket(connection).connect(KEY)["t"] == "welcome"
        listed = httpx.get(f"{stack.first.url}/api/v1/admin/connections", headers=HEADERS).json()["items"]
    assert [one["address"] for one in listed] == [CLIENT]


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/admin/connections"])
def test_what_is_for_operators_is_kept_inside(stack: Stack, path: str) -> None:
    assert httpx.get(stack.url + path, headers=HEADERS).status_code == 404
    assert httpx.get(stack.first.url + "/metrics").status_code == 200


class Clients:
    """Who asks, one thing after the other, and takes everything but a success for a failure."""

    def __init__(self, stack: Stack, agent_id: str):
        self._http = httpx.AsyncClient(base_url=f"{stack.url}/api/v1", headers=HEADERS, timeout=30)
        self._agent_id = agent_id
        self.over = False
        self.done = {"sessions": 0, "runs": 0}
        self.failed: list[str] = []

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            self.failed.append(f"{method} {path}: {error!r}")
            return {}
        if not answer.is_success:
            self.failed.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if answer.is_success else {}

    async def keep_sessions(self) -> None:
        while not self.over:
            made = await self._ask("POST", "/sessions", json={"title": "x"})
            if made:
                await self._ask("GET", f"/sessions/{made['id']}")
            self.done["sessions"] += 1
            await asyncio.sleep(0.02)

    async def run_agents(self) -> None:
        while not self.over:
            answer = await self._ask("POST", f"/agents/{self._agent_id}/execute", json={"message": "hello"})
            if answer and answer["content"] != "You said: hello":
                self.failed.append(str(answer))
            self.done["runs"] += 1

    async def close(self) -> None:
        await self._http.aclose()


async def _restarted(service: Service) -> None:
    """As `docker compose up --detach --no-deps --wait` does it with a new image."""
    assert await asyncio.to_thread(service.stop) == 0, service.log.read_text()
    service.start()
    await asyncio.to_thread(service.healthy)


def test_all_are_replaced_one_after_the_other_and_no_request_fails(stack: Stack, api: httpx.Client) -> None:
    agent_id = make_agent(api)

    async def scenario() -> None:
        clients = Clients(stack, agent_id)
        work = asyncio.gather(*(clients.keep_sessions() for _ in range(4)), *(clients.run_agents() for _ in range(2)))
        for service in (stack.first, stack.second, *stack.workers):
            await asyncio.sleep(1.5)
            await _restarted(service)
        clients.over = True
        await work
        await clients.close()
        print(clients.done)
        assert clients.failed == [], stack.proxy.log.read_text()[-4000:]
        assert clients.done["sessions"] > 200
        assert clients.done["runs"] > 20

    scenarios.play(scenario, seconds=110)
    for service in (stack.first, stack.second, *stack.workers):
        assert "Traceback" not in service.log.read_text()
