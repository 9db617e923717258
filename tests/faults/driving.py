"""What the tests of faults do to a server: agents of their own, runs that speak, and readers that come back."""

import json
import threading
import time
from typing import Any

import httpx

from tests.conftest import Server
from tests.faults.oracle import TERMINAL, Item
from tests.integration.test_executions import started
from tests.model_server import ModelServer, Reply
from tests.runs import SSE

LONG = Reply("word " * 100, delay=0.05)
"""Five seconds: longer than a fault, and than the window of a stop in tests."""


def database_of(server: Server) -> str:
    return server.environment["AI_AGENT_DATABASE_URL"]


def make_agent(api: httpx.Client, tools: list[str] | None = None, **config: Any) -> str:
    """One whose model nobody else asks, so that a breaker opens for itself only."""
    name = f"a{time.monotonic_ns()}"
    body = {"name": name, "tools": tools or [], "model_config": {"provider": "openai", "model": name, **config}}
    response = api.post("/agents", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def speaking(api: httpx.Client, model: ModelServer, *replies: Reply, agent_id: str | None = None, **body: Any) -> str:
    """The path of a run that has got all replies but the last, which it begins to hear."""
    asked = len(model.requests)
    model.script(*replies)
    path = started(api, agent_id or make_agent(api), **body)
    until(lambda: len(model.requests) == asked + len(replies))
    return path


def until(true: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Reader(threading.Thread):
    """Reads a run's stream to its end, and comes back with the last id that it has seen whenever that breaks."""

    def __init__(self, server: Server, path: str):
        super().__init__(daemon=True)
        self._server, self._path = server, path
        self.events: list[Item] = []
        self.resumed = 0
        self._last: dict[str, str] = {}
        self.start()

    def run(self) -> None:
        while not (self.events and self.events[-1]["type"] in TERMINAL):
            try:
                self._read()
            except httpx.TransportError:
                time.sleep(0.1)
            self.resumed += 1

    def _read(self) -> None:
        with (
            self._server.client() as api,
            api.stream("GET", f"{self._path}/events", headers=SSE | self._last) as response,
        ):
            if response.status_code != 200:
                raise httpx.TransportError(f"{response.status_code}")
            for line in response.iter_lines():
                if line.startswith("id: "):
                    self._last = {"Last-Event-ID": line[4:]}
                elif line.startswith("data: "):
                    self.events.append(json.loads(line[6:]))

    def whole(self) -> list[Item]:
        """All that was heard, once the end was."""
        self.join(15)
        assert not self.is_alive(), self.events[-3:]
        return self.events
