"""Sockets whose node dies, whose client stops reading, whose network is gone: others hear all, once, in order."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ai_agent.client import Event, RealtimeClient
from tests import scenarios
from tests.conftest import KEY, QUICK, Nodes, create_database
from tests.fault_proxy import FaultProxy
from tests.model_server import ModelServer
from tests.servers import ValkeyServer
from tests.sockets import conversing

CLIENTS = 16
POSTS = 120
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def two(postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path: Path) -> Iterator[Nodes]:
    settings = {
        "OPENAI_BASE_URL": f"{model.url}/v1",
        "AI_AGENT_WS_PING_SECONDS": "2",
        "AI_AGENT_WS_PONG_SECONDS": "2",
        "AI_AGENT_WS_MAX_CONNECTIONS_PER_USER": "100",
        **QUICK,
    }
    nodes = Nodes.on(create_database(postgres_url), valkey.url, tmp_path, **settings)
    yield nodes
    nodes.stop()


play = partial(scenarios.play, seconds=90)


class Listener:
    """What a client hears of a session's messages, and when."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.at: dict[str, float] = {}
        self.task: asyncio.Task[None] | None = None

    async def listen(self, client: RealtimeClient, session_id: str, ready: asyncio.Semaphore) -> None:
        subscription = client.subscribe(f"session:{session_id}", types=["message.created"])
        async for notice in subscription:
            if isinstance(notice, Event):
                content = msgspec.to_builtins(notice.data)["content"]
                self.heard.append(content)
                self.at[content] = time.monotonic()
            else:
                ready.release()


@asynccontextmanager
async def listeners(nodes: Nodes, session_id: str, count: int) -> AsyncIterator[list[Listener]]:
    """Half of them at each node."""
    ready, made = asyncio.Semaphore(0), [Listener() for _ in range(count)]
    async with AsyncExitStack() as stack:
        for number, one in enumerate(made):
            url = (nodes.first, nodes.second)[number % 2].url
            client = await stack.enter_async_context(RealtimeClient(url, KEY))
            one.task = asyncio.create_task(one.listen(client, session_id, ready))
        for _ in made:
            await ready.acquire()
        yield made
        for one in made:
            if one.task is not None:
                one.task.cancel()


async def posted(http: httpx.AsyncClient, url: str, session_id: str, content: str) -> bool:
    """Whether it was answered that the message is there."""
    try:
        answer = await http.post(f"{url}/api/v1/sessions/{session_id}/messages", json={"content": content})
    except httpx.HTTPError:
        return False
    return answer.status_code == 201


def made_session(nodes: Nodes) -> str:
    with nodes.first.client() as api:
        return str(api.post("/sessions", json={}).json()["id"])


async def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "It did not happen in time"
        await asyncio.sleep(0.02)


def test_a_node_that_dies_under_sixteen_clients_costs_nobody_an_event(two: Nodes) -> None:
    session_id = made_session(two)

    async def scenario() -> None:
        accepted: list[str] = []

        async def post_all(http: httpx.AsyncClient) -> None:
            for number in range(POSTS):
                url = (two.first, two.second)[number % 2].url
                if await posted(http, url, session_id, str(number)):
                    accepted.append(str(number))
                await asyncio.sleep(0.03)

        async with listeners(two, session_id, CLIENTS) as all_of_them, httpx.AsyncClient(headers=HEADERS) as http:
            posting = asyncio.create_task(post_all(http))
            await asyncio.sleep(1)
            port = two.second.port
            await asyncio.to_thread(two.second.stop, signal.SIGKILL)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(two.second.start, port)
            back = time.monotonic()
            await posting
            assert await posted(http, two.second.url, session_id, "last")
            accepted.append("last")
            await until(lambda: all("last" in one.heard for one in all_of_them), 10)
        with two.first.client() as api:
            stored = [m["content"] for m in _messages(api, session_id)]
        assert set(accepted) <= set(stored)
        for one in all_of_them:
            assert one.heard == stored, "Lost, doubled, or out of order"
        late = [one.at[content] - back for one in all_of_them for content in one.heard if one.at[content] > back]
        assert late  # It went on while they listened again.

    play(scenario)


def _messages(api: httpx.Client, session_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        parameters = {"limit": 200} | ({"cursor": cursor} if cursor else {})
        page = api.get(f"/sessions/{session_id}/messages", params=parameters).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_a_client_that_stops_reading_is_let_go_and_the_others_hear_all(two: Nodes) -> None:
    session_id = made_session(two)
    large = "x" * 60_000

    async def scenario() -> None:
        async with listeners(two, session_id, 2) as both, httpx.AsyncClient(headers=HEADERS) as http:
            with conversing(two.first) as stuck:
                stuck.ask("subscribe", ch=f"session:{session_id}")
                # It takes a few frames that nobody asks it for, and then reads nothing more.
                for number in range(60):
                    assert await posted(http, two.first.url, session_id, f"{number} {large}")
                await until(lambda: all(len(one.heard) == 60 for one in both), 20)
        for one in both:
            assert [content.partition(" ")[0] for content in one.heard] == [str(number) for number in range(60)]

    play(scenario)


def test_a_client_whose_network_is_gone_is_let_go_and_comes_back_without_a_hole(two: Nodes) -> None:
    session_id = made_session(two)
    proxy = FaultProxy(two.first.port)

    async def scenario() -> None:
        ready, one = asyncio.Semaphore(0), Listener()
        async with (
            RealtimeClient(f"http://127.0.0.1:{proxy.port}", KEY) as client,
            httpx.AsyncClient(headers=HEADERS) as http,
        ):
            one.task = asyncio.create_task(one.listen(client, session_id, ready))
            await ready.acquire()
            assert await posted(http, two.first.url, session_id, "before")
            await until(lambda: one.heard == ["before"], 5)
            with proxy.cut():
                assert await posted(http, two.first.url, session_id, "meanwhile")
                await asyncio.sleep(6)  # Longer than ping and pong take.
                with two.first.client() as api:
                    assert api.get("/admin/connections").json()["items"] == []
            back = time.monotonic()
            assert await posted(http, two.first.url, session_id, "after")
            await until(lambda: one.heard == ["before", "meanwhile", "after"], 25)
            assert one.at["after"] - back < 25
            one.task.cancel()

    try:
        play(scenario)
    finally:
        proxy.close()
