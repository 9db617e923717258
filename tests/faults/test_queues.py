"""A user's queue through deaths of processes and of Redis: what was accepted is delivered, once, in the lane's order.

What the oracle asks: every `eid` that was answered with 202 reaches the user's client; none is delivered twice behind
the client's dedupe; and of what was posted one after the other to a lane, the earlier one comes first.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from ai_agent.client import Event, RealtimeClient
from tests import scenarios
from tests.conftest import KEY, Nodes, Server, create_database
from tests.model_server import ModelServer
from tests.servers import ValkeyServer

HEADERS = {"Authorization": f"Bearer {KEY}"}
SETTINGS = {"AI_AGENT_WS_ACK_WAIT_SECONDS": "1", "AI_AGENT_WS_MAX_DELIVER": "1000"}
POSTS = 150


play = partial(scenarios.play, seconds=90)


class Reader:
    """A client of the user that acknowledges what it has heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def read(self, url: str) -> None:
        async with RealtimeClient(url, KEY, patience=60) as client:
            async for notice in client.queue(types=["notification"]):
                if isinstance(notice, Event):
                    self.heard.append(str(notice.eid))
                    client.acknowledge(notice)


async def notified(http: httpx.AsyncClient, url: str, number: int) -> str | None:
    """The event's id where it was accepted; None where nobody knows."""
    body = {"to": {"user_id": "admin"}, "title": str(number), "lane": 1}
    with suppress(httpx.HTTPError):
        answer = await http.post(f"{url}/api/v1/notifications", json=body)
        if answer.status_code == 202:
            return str(answer.json()["eid"])
    return None


async def post_all(urls: list[str], accepted: list[str], at: dict[int, Callable[[], Awaitable[None]]]) -> None:
    """One after the other; `at` is done when so many were posted."""
    async with httpx.AsyncClient(headers=HEADERS, timeout=10) as http:
        for number in range(POSTS):
            if number in at:
                await at[number]()
            eid = await notified(http, urls[number % len(urls)], number)
            if eid is not None:
                accepted.append(eid)


async def acknowledged(url: str, eids: list[str]) -> set[str]:
    async with httpx.AsyncClient(headers=HEADERS, timeout=10) as http:
        told = [(eid, await http.get(f"{url}/api/v1/events/{eid}/delivery")) for eid in eids]
    return {eid for eid, answer in told if answer.json()["status"] == "acknowledged"}


async def assert_delivered(reader: Reader, accepted: list[str]) -> None:
    deadline = asyncio.get_running_loop().time() + 40
    while missing := set(accepted) - set(reader.heard):
        assert asyncio.get_running_loop().time() < deadline, f"{len(missing)} of {len(accepted)} never came"
        await asyncio.sleep(0.05)
    assert len(set(reader.heard)) == len(reader.heard), "An event was delivered twice"


def in_order(reader: Reader, accepted: list[str]) -> bool:
    place = {eid: number for number, eid in enumerate(accepted)}
    numbers = [place[eid] for eid in reader.heard if eid in place]
    return numbers == sorted(numbers)


def test_a_killed_server_keeps_what_it_accepted_for_a_user(tmp_path: Path) -> None:
    server = Server(f"sqlite:///{tmp_path}/test.db", tmp_path, **SETTINGS)
    reader, accepted = Reader(), list[str]()

    async def kill() -> None:
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        await asyncio.to_thread(server.start, server.port)

    async def scenario() -> None:
        reading = asyncio.create_task(reader.read(server.url))
        await post_all([server.url], accepted, {40: kill, 90: kill})
        await assert_delivered(reader, accepted)
        reading.cancel()

    try:
        play(scenario)
    finally:
        server.stop()
    assert len(accepted) > POSTS // 2
    assert in_order(reader, accepted)


@pytest.fixture
def two(postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path: Path) -> Iterator[Nodes]:
    settings = {"OPENAI_BASE_URL": f"{model.url}/v1", **SETTINGS}
    nodes = Nodes.on(create_database(postgres_url), valkey.url, tmp_path, **settings)
    yield nodes
    nodes.stop()


def test_a_killed_redis_takes_nothing_from_a_queue(two: Nodes, valkey: ValkeyServer) -> None:
    reader, accepted = Reader(), list[str]()

    async def kill() -> None:
        await asyncio.to_thread(valkey.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(valkey.start)

    async def scenario() -> None:
        reading = asyncio.create_task(reader.read(two.second.url))
        await post_all([two.first.url], accepted, {50: kill, 100: kill})
        await assert_delivered(reader, accepted)
        reading.cancel()

    play(scenario)
    assert len(accepted) > POSTS // 2


def test_a_client_whose_node_dies_goes_on_at_another_one(two: Nodes) -> None:
    reader, accepted = Reader(), list[str]()
    readings: list[asyncio.Task[None]] = []
    settled: set[str] = set()

    async def kill() -> None:
        await asyncio.to_thread(two.second.stop, signal.SIGKILL)
        settled.update(await acknowledged(two.first.url, reader.heard))
        readings.append(asyncio.create_task(reader.read(two.first.url)))

    async def scenario() -> None:
        readings.append(asyncio.create_task(reader.read(two.second.url)))
        await post_all([two.first.url], accepted, {60: kill})
        # The second client of the user knows nothing of what the first one has heard and not acknowledged.
        deadline = asyncio.get_running_loop().time() + 40
        while missing := set(accepted) - set(reader.heard):
            assert asyncio.get_running_loop().time() < deadline, f"{len(missing)} never came"
            await asyncio.sleep(0.05)
        for reading in readings:
            reading.cancel()

    play(scenario)
    assert len(accepted) == POSTS
    again = {eid for eid, times in Counter(reader.heard).items() if times > 1}
    assert settled
    assert not again & settled, "What was acknowledged is told again"
