"""Load for a long time, while processes are restarted: nothing is lost, and nothing grows.

`SOAK_SECONDS` says how long; a process is stopped or killed ten times meanwhile. The first node is never restarted:
what it holds is looked at through `/metrics`.
"""

import asyncio
import os
import signal
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import msgspec
import pytest

from ai_agent.client import Event, RealtimeClient, Subscription
from ai_agent.domain.event_data import NotificationData
from tests.conftest import KEY, QUICK, Nodes, Server, WorkerProcess, create_database
from tests.model_server import ModelServer
from tests.runs import make_agent
from tests.servers import ValkeyServer

SECONDS = float(os.environ.get("SOAK_SECONDS", "40"))
TALKERS = 8
RESTARTS = 10
GROWTH = 1.1
"""What is allowed of the memory between the middle and the end."""
SOME = 20
"""Tasks and channels that are there at one moment and not at another one."""
WATCHED = ("process_resident_memory_bytes", "ai_agent_tasks", "ai_agent_event_channels", "ai_agent_ws_subscriptions")


@pytest.fixture
def two(postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path: Path) -> Iterator[Nodes]:
    settings = {
        "OPENAI_BASE_URL": f"{model.url}/v1",
        "AI_AGENT_RATE_LIMIT_ENABLED": "false",
        "AI_AGENT_WS_MAX_CONNECTIONS_PER_USER": "100",
        **QUICK,
    }
    nodes = Nodes.on(create_database(postgres_url), valkey.url, tmp_path, **settings)
    yield nodes
    nodes.stop()


class Soak:
    """`heard` and `acknowledged` are what talkers and the user's queue got; `samples` what the first node held."""

    def __init__(self, nodes: Nodes, agent: str):
        self.nodes, self.agent = nodes, agent
        self.rounds = 0
        self.accepted: set[str] = set()
        self.acknowledged: list[str] = []
        self.samples: list[dict[str, float]] = []
        self._http = httpx.AsyncClient(
            base_url=f"{nodes.first.url}/api/v1", headers={"Authorization": f"Bearer {KEY}"}, timeout=30
        )

    async def run(self) -> None:
        urls = [self.nodes.first.url, self.nodes.second.url]
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read_queue(urls[1]))
            sampling = tasks.create_task(self._sample())
            load = [tasks.create_task(self._talk(urls[number % 2])) for number in range(TALKERS)]
            await self._restart()
            for talker in load:
                talker.cancel()
            await asyncio.wait(load)
            sampling.cancel()
            await self._all_acknowledged()
            reading.cancel()
        await self._http.aclose()

    async def _talk(self, url: str) -> None:
        """Conversations, each in a session of its own that is deleted when it was heard to its end."""
        async with RealtimeClient(url, KEY, patience=60) as client:
            while True:
                session = (await self._post("/sessions", {}))["id"]
                async with client.subscribe(f"session:{session}", from_="earliest") as told:
                    said = await self._post(f"/sessions/{session}/messages", {"content": "Hello"})
                    body = {"message": "How are you?", "session_id": session}
                    run = await self._post(f"/agents/{self.agent}/executions", body)
                    await self._hear(told, said["id"], run["id"])
                note = {"to": {"user_id": "admin"}, "title": session}
                self.accepted.add((await self._post("/notifications", note))["eid"])
                (await self._http.delete(f"/sessions/{session}")).raise_for_status()
                self.rounds += 1

    async def _hear(self, told: Subscription, message: str, run: str) -> None:
        """All of a conversation: each number once."""
        seen: list[int] = []
        messages: list[str] = []
        async with asyncio.timeout(60):
            async for notice in told:
                if not isinstance(notice, Event):
                    continue
                data = msgspec.to_builtins(notice.data)
                seen.append(notice.seq)
                messages += [data["id"]] if notice.type == "message.created" else []
                if notice.type == "execution.completed" and data["execution_id"] == run:
                    break
        assert message in messages
        assert seen == list(range(1, len(seen) + 1))

    async def _read_queue(self, url: str) -> None:
        async with RealtimeClient(url, KEY, patience=60) as client:
            async for notice in client.queue():
                if isinstance(notice, Event):
                    client.acknowledge(notice)
                    if isinstance(notice.data, NotificationData):
                        self.acknowledged.append(str(notice.eid))

    async def _all_acknowledged(self) -> None:
        async with asyncio.timeout(60):
            while self.accepted - set(self.acknowledged):
                await asyncio.sleep(0.1)

    async def _restart(self) -> None:
        """The second node and the worker in turn, stopped and killed in turn."""
        assert self.nodes.worker is not None
        for number in range(RESTARTS):
            await asyncio.sleep(SECONDS / RESTARTS)
            victim: Server | WorkerProcess = (self.nodes.second, self.nodes.worker)[number % 2]
            await asyncio.to_thread(victim.stop, (signal.SIGTERM, signal.SIGKILL)[number // 2 % 2])
            if isinstance(victim, Server):
                await asyncio.to_thread(victim.start, victim.port)
            else:
                await asyncio.to_thread(victim.start)

    async def _sample(self) -> None:
        while True:
            text = (await self._http.get(f"{self.nodes.first.url}/metrics")).text
            lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(WATCHED))
            self.samples.append({name: float(lines[name]) for name in WATCHED})
            await asyncio.sleep(SECONDS / 200)

    async def _post(self, path: str, body: Mapping[str, object]) -> dict[str, str]:
        answer = await self._http.post(path, json=body)
        assert answer.status_code < 300, answer.text
        return dict(answer.json())

    def medians(self, name: str) -> tuple[float, float]:
        """Of the middle and of the end."""
        values = [sample[name] for sample in self.samples]
        fifth = len(values) // 5
        return statistics.median(values[2 * fifth : 3 * fifth]), statistics.median(values[-fifth:])


@pytest.mark.timeout(SECONDS + 240)
def test_nothing_is_lost_and_nothing_grows(two: Nodes) -> None:
    with two.first.client() as api:
        soak = Soak(two, make_agent(api))

    async def scenario() -> None:
        async with asyncio.timeout(SECONDS + 180):
            await soak.run()

    asyncio.run(scenario())
    print(f"{soak.rounds} conversations, {len(soak.accepted)} notifications", {n: soak.medians(n) for n in WATCHED})
    assert soak.rounds > SECONDS
    assert len(soak.acknowledged) == len(set(soak.acknowledged))
    middle, end = soak.medians("process_resident_memory_bytes")
    assert end < middle * GROWTH
    for name in WATCHED[1:]:
        middle, end = soak.medians(name)
        assert end < middle + SOME, name
