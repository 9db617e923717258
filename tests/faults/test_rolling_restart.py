"""A deploy that nobody notices: one process after the other is stopped and started, under load, behind a load balancer.

What the oracle asks: no request fails but with a 503 that says when to try again, no stream is cut, and of what was
accepted every listener hears each event once, in order.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from ai_agent.client import Event, RealtimeClient
from tests import scenarios
from tests.balancer import Balancer
from tests.conftest import KEY, QUICK, Nodes, Server, WorkerProcess, create_database
from tests.faults.oracle import TERMINAL
from tests.model_server import ModelServer, Reply
from tests.runs import SSE, make_agent
from tests.servers import ValkeyServer
from tests.sockets import JSON

HEADERS = {"Authorization": f"Bearer {KEY}"}
SESSIONS, LISTENERS, RUNNERS = 4, 12, 8
CROWD, CROWD_SESSIONS, WINDOW = 500, 20, 10.0
LIMITS = httpx.Limits(keepalive_expiry=2)
"""Less than the 5 s of the server, so that not both let go of a connection at the same time."""
LAST = "last"


@pytest.fixture
def two(postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path: Path) -> Iterator[Nodes]:
    settings = {
        "OPENAI_BASE_URL": f"{model.url}/v1",
        "AI_AGENT_DRAIN_DELAY_SECONDS": "0.5",
        "AI_AGENT_DRAIN_WINDOW_SECONDS": f"{WINDOW:g}",
        "AI_AGENT_EXECUTION_CONCURRENCY": f"{RUNNERS}",
        "AI_AGENT_WS_MAX_CONNECTIONS_PER_USER": "2000",
        **QUICK,
    }
    nodes = Nodes.on(create_database(postgres_url), valkey.url, tmp_path, **settings)
    yield nodes
    model._script.clear()
    nodes.stop()


class Load:
    """What clients do meanwhile. `failed` is what must not happen to a request, `repeated` what may."""

    def __init__(self, url: str, sessions: list[str]):
        self.sessions = sessions
        self.accepted: dict[str, list[str]] = {session_id: [] for session_id in sessions}
        self.runs = 0
        self.resumed = 0
        self.repeated = 0
        self.failed: list[str] = []
        self.over = False
        self._http = httpx.AsyncClient(base_url=f"{url}/api/v1", headers=HEADERS, timeout=30, limits=LIMITS)

    async def close(self) -> None:
        await self._http.aclose()

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        while True:
            try:
                answer = await self._http.post(path, json=body)
            except httpx.HTTPError as error:
                self.failed.append(f"POST {path}: {error!r}")
                continue
            if answer.status_code in (201, 202):
                return dict(answer.json())
            if answer.status_code != 503 or "retry-after" not in answer.headers:
                self.failed.append(f"POST {path}: {answer.status_code} {answer.text}")
            self.repeated += 1
            await asyncio.sleep(0.1)

    async def say(self, session_id: str, content: str) -> None:
        await self.post(f"/sessions/{session_id}/messages", content=content)
        self.accepted[session_id].append(content)

    async def talk(self, session_id: str, pause: float) -> None:
        """One message after the other."""
        number = 0
        while not self.over:
            await self.say(session_id, str(number))
            number += 1
            await asyncio.sleep(pause)
        await self.say(session_id, LAST)

    async def run_agents(self, agent_id: str) -> None:
        """One run after the other, each followed to its end."""
        while not self.over:
            execution_id = (await self.post(f"/agents/{agent_id}/executions", message="x"))["id"]
            await self._follow(f"/executions/{execution_id}/events")
            self.runs += 1

    async def _follow(self, path: str) -> None:
        events: list[dict[str, Any]] = []
        position: dict[str, str] = {}
        while not (events and events[-1]["type"] in TERMINAL):
            try:
                async with self._http.stream("GET", path, headers=SSE | position) as response:
                    async for line in response.aiter_lines():
                        if line.startswith("id: "):
                            position = {"Last-Event-ID": line[4:]}
                        elif line.startswith("data: "):
                            events.append(json.loads(line[6:]))
            except httpx.HTTPError as error:
                self.failed.append(f"GET {path}: {error!r}")
            self.resumed += 1
        self.resumed -= 1
        if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
            self.failed.append(f"{path} was told {[event['seq'] for event in events]}")
        if events[-1]["type"] != "execution.completed":
            self.failed.append(f"{path} ended with {events[-1]}")


play = partial(scenarios.play, seconds=110)


async def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@asynccontextmanager
async def listening(url: str, sessions: list[str]) -> AsyncIterator[list[list[str]]]:
    """What each of the listeners hears, each of the session with its number."""
    heard: list[list[str]] = [[] for _ in range(LISTENERS)]
    ready = asyncio.Semaphore(0)

    async def listen(number: int) -> None:
        channel = f"session:{sessions[number % len(sessions)]}"
        async with RealtimeClient(url, KEY) as client:
            async for notice in client.subscribe(channel, types=["message.created"]):
                if isinstance(notice, Event):
                    heard[number].append(msgspec.to_builtins(notice.data)["content"])
                else:
                    ready.release()

    tasks = [asyncio.create_task(listen(number)) for number in range(LISTENERS)]
    for _ in tasks:
        await ready.acquire()
    yield heard
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def restarted(node: Server) -> None:
    assert await asyncio.to_thread(node.stop) == 0
    assert "Traceback" not in node.log.read_text()
    await asyncio.to_thread(node.start, node.port)


async def restarted_worker(worker: WorkerProcess) -> None:
    assert await asyncio.to_thread(worker.stop) == 0
    await asyncio.to_thread(worker.start)


def made(nodes: Nodes, count: int) -> tuple[list[str], str]:
    """Sessions, and an agent."""
    with nodes.first.client() as api:
        return [str(api.post("/sessions", json={}).json()["id"]) for _ in range(count)], make_agent(api)


def test_a_rolling_restart_under_load_is_noticed_by_nobody(two: Nodes, model: ModelServer) -> None:
    sessions, agent_id = made(two, SESSIONS)
    worker = two.worker
    assert worker is not None
    model.script(*[Reply("word " * 50, delay=0.05)] * 200)

    async def scenario() -> None:
        async with Balancer(two.first.port, two.second.port).open() as balancer:
            load = Load(balancer.url, sessions)
            async with listening(balancer.url, sessions) as heard:
                talking = [load.talk(session_id, 0.03) for session_id in sessions]
                running = [load.run_agents(agent_id) for _ in range(RUNNERS)]
                work = asyncio.gather(*talking, *running)
                for restart in (restarted(two.first), restarted(two.second), restarted_worker(worker)):
                    await asyncio.sleep(2)
                    await restart
                await asyncio.sleep(1)
                load.over = True
                await work
                await until(lambda: all(one[-1:] == [LAST] for one in heard))
            await load.close()
        posted = sum(map(len, load.accepted.values()))
        print(f"{posted} messages, {load.runs} runs, {load.resumed} streams resumed, {load.repeated} requests repeated")
        assert (load.failed, balancer.turned_away) == ([], 0)
        assert posted > 400
        assert load.runs > RUNNERS
        assert load.resumed >= 2, "No stream was ended by a restart"
        for number, one in enumerate(heard):
            assert one == load.accepted[sessions[number % SESSIONS]], "Lost, doubled, or out of order"

    play(scenario)


class Member:
    """One of a crowd: listens at one node, and when that sends it away at the other one, behind its last event."""

    def __init__(self, session_id: str):
        self._channel = f"session:{session_id}"
        self.session_id = session_id
        self.heard: list[str] = []
        self.holes: list[str] = []
        self.code = 0
        self.late_ms = 0.0
        self.left: float | None = None
        self.ready = asyncio.Event()
        self._position: dict[str, Any] = {}

    async def live(self, first: Server, second: Server) -> None:
        async with _socket(first) as socket:
            await self._join(socket)
            bye = await self._listen(socket)
        self.left = time.monotonic()
        await asyncio.sleep(bye["after_ms"] / 1000)
        async with _socket(second) as socket:
            await _say(socket, t="connect", id=1, token=KEY, resume=[{"ch": self._channel, **self._position}])
            welcome = json.loads(await socket.recv())
            if not welcome["resumed"][0]["recovered"]:
                self.holes.append(f"{self._position}: {welcome}")
            self._position["epoch"] = welcome["resumed"][0]["epoch"]
            await self._listen(socket)

    async def _join(self, socket: ClientConnection) -> None:
        await _say(socket, t="connect", id=1, token=KEY)
        await _say(socket, t="subscribe", id=2, ch=self._channel, **{"from": "earliest"})

    async def _listen(self, socket: ClientConnection) -> dict[str, Any]:
        """To the end of the socket, whose `bye` it answers."""
        bye: dict[str, Any] = {}
        told: tuple[float, float] | None = None
        try:
            while True:
                frame = json.loads(await socket.recv())
                match frame["t"]:
                    case "subscribed":
                        self._position = {"epoch": frame["epoch"], "seq": frame["seq"]}
                        self.ready.set()
                    case "event":
                        self._hear(frame)
                    case "ping":
                        await _say(socket, t="pong")
                    case "drain":
                        told = time.monotonic(), frame["after_ms"]
                    case "bye":
                        bye = frame
                    case "gap" | "epoch" | "error":
                        self.holes.append(f"{self._position}: {frame}")
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else 1006
        if told is not None:
            self.late_ms = (time.monotonic() - told[0]) * 1000 - told[1]
        return bye

    def _hear(self, frame: dict[str, Any]) -> None:
        if frame["seq"] != self._position["seq"] + 1:
            self.holes.append(f"{self._position}: {frame}")
        self._position["seq"] = frame["seq"]
        if frame["type"] == "message.created":
            self.heard.append(frame["data"]["content"])


def _socket(node: Server) -> connect:
    url = node.url.replace("http", "ws", 1) + "/ws"
    return connect(url, subprotocols=[Subprotocol(JSON)], ping_interval=None, compression=None, open_timeout=30)


async def _say(socket: ClientConnection, **frame: Any) -> None:
    with suppress(ConnectionClosed):
        await socket.send(json.dumps(frame))


def test_five_hundred_clients_go_to_the_other_node_within_the_window(two: Nodes) -> None:
    sessions, _ = made(two, CROWD_SESSIONS)

    async def scenario() -> None:
        crowd = [Member(sessions[number % CROWD_SESSIONS]) for number in range(CROWD)]
        living = []
        for start in range(0, CROWD, 50):
            some = crowd[start : start + 50]
            living += [asyncio.create_task(one.live(two.first, two.second)) for one in some]
            for one in some:
                await one.ready.wait()
        load = Load(two.second.url, sessions)
        work = asyncio.gather(*(load.talk(session_id, 0.5) for session_id in sessions))
        await asyncio.sleep(1)
        asked = time.monotonic()
        two.first.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(two.first.process.wait, 40) == 0
        stopped = time.monotonic() - asked
        await asyncio.sleep(1)
        load.over = True
        await work
        await until(lambda: all(one.heard[-1:] == [LAST] for one in crowd))
        await load.close()
        for task in living:
            task.cancel()
        await asyncio.gather(*living, return_exceptions=True)

        gone = [one.left - asked for one in crowd if one.left is not None]
        late = sorted(one.late_ms for one in crowd)
        told = [set(load.accepted[one.session_id]) for one in crowd]
        lost = sum(len(all_of_it - set(one.heard)) for one, all_of_it in zip(crowd, told, strict=True))
        doubled = sum(len(one.heard) - len(set(one.heard)) for one in crowd)
        print(f"{CROWD} clients had left after {max(gone):.1f} s, the process after {stopped:.1f} s")
        print(f"behind their slots: p50 {late[CROWD // 2]:.0f} ms, p99 {late[int(CROWD * 0.99)]:.0f} ms")
        print(f"{sum(len(one.heard) for one in crowd)} events heard, {lost} lost, {doubled} doubled")
        assert load.failed == []
        assert (lost, doubled, [hole for one in crowd for hole in one.holes]) == (0, 0, [])
        assert all(one.heard == load.accepted[one.session_id] for one in crowd), "Out of order"
        assert len(gone) == CROWD
        assert max(gone) < 0.5 + WINDOW + 2
        halfway = sum(1 for seconds in gone if seconds < 0.5 + WINDOW / 2)
        assert CROWD * 0.4 < halfway < CROWD * 0.6, "They did not go evenly"
        assert stopped < 0.5 + WINDOW + 3

    play(scenario)
