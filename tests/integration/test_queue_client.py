"""The user's queue, as the Python client reads it: every event once, whatever happens to the connection."""

import asyncio
from collections.abc import Iterator
from functools import partial
from uuid import uuid4

import httpx
import pytest

from ai_agent.client import Event, Live, RealtimeClient, Subscription
from ai_agent.domain.event_data import NotificationData
from tests import scenarios
from tests.conftest import Nodes

SETTINGS = {"AI_AGENT_WS_ACK_WAIT_SECONDS": "0.5"}


@pytest.fixture
def api(nodes: Nodes) -> Iterator[httpx.Client]:
    with nodes.first.client() as client:
        yield client


@pytest.fixture
def key(api: httpx.Client) -> str:
    body = {"name": "queue", "owner_id": f"user-{uuid4()}", "scopes": ["agents:read"]}
    return str(api.post("/admin/keys", json=body).raise_for_status().json()["key"])


play = partial(scenarios.play, seconds=40)


def notify(api: httpx.Client, user: str | None, title: str) -> str:
    answer = api.post("/notifications", json={"to": {"user_id": user}, "title": title}).raise_for_status()
    return str(answer.json()["eid"])


async def titles(subscription: Subscription, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        notice = await anext(subscription)
        if isinstance(notice, Event):
            assert isinstance(notice.data, NotificationData)
            found.append(notice.data.title)
    return found


def test_an_event_comes_once_though_it_is_sent_again(nodes: Nodes, api: httpx.Client, key: str) -> None:
    async def scenario() -> None:
        async with RealtimeClient(nodes.second.url, key) as client:
            queue = client.queue()
            eid = notify(api, client.user, "first")
            assert await titles(queue, 1) == ["first"]
            while api.get(f"/events/{eid}/delivery").json()["tries"] < 3:
                await asyncio.sleep(0.1)
            notify(api, client.user, "second")
            assert await titles(queue, 1) == ["second"]

    play(scenario)


def test_what_was_acknowledged_is_gone_for_all_clients(nodes: Nodes, api: httpx.Client, key: str) -> None:
    async def scenario() -> None:
        async with RealtimeClient(nodes.second.url, key, name="first") as client:
            eid = notify(api, client.user, "read")
            async with client.queue() as queue:
                async for notice in queue:
                    if isinstance(notice, Event):
                        client.acknowledge(notice)
                        break
                # Left at once: the acknowledgement is not lost with the client.
                await client.close()
        told = api.get(f"/events/{eid}/delivery").json()
        assert told["status"] == "acknowledged"
        assert told["acknowledged_by"].startswith("first:")
        async with RealtimeClient(nodes.first.url, key) as client:
            assert isinstance(await anext(client.queue()), Live)

    play(scenario)


def test_who_leaves_the_queue_at_once_has_acknowledged(nodes: Nodes, api: httpx.Client, key: str) -> None:
    async def scenario() -> None:
        async with RealtimeClient(nodes.second.url, key) as client:
            eid = notify(api, client.user, "read")
            async with client.queue() as queue:
                async for notice in queue:
                    if isinstance(notice, Event):
                        client.acknowledge(notice)
                        break
            while api.get(f"/events/{eid}/delivery").json()["status"] != "acknowledged":
                await asyncio.sleep(0.05)

    play(scenario)
