"""A server that is killed in the middle of its work: what was answered is there, what is repeated happens once."""

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server

WRITERS = 8
KILLS = 3


class Writer:
    """Posts messages one after the other, each with a key of its own, and remembers what it sent and what it heard."""

    def __init__(self, server: Server, path: str, name: str):
        self._server = server
        self._path = path
        self._name = name
        self.sent: list[str] = []
        self.answered: dict[str, str] = {}

    def write_until(self, stopped: threading.Event) -> None:
        with self._server.client() as api:
            for number in itertools.count():
                if stopped.is_set():
                    return
                content = f"{self._name}-{number}"
                self.sent.append(content)
                try:
                    self._post(api, content)
                except httpx.TransportError:
                    return

    def repeat(self) -> None:
        with self._server.client() as api:
            for content in self.sent:
                before = self.answered.get(content)
                self._post(api, content)
                assert before in {None, self.answered[content]}

    def _post(self, api: httpx.Client, content: str) -> None:
        answer = api.post(self._path, json={"content": content}, headers={"Idempotency-Key": content})
        assert answer.status_code == 201, answer.text
        self.answered[content] = answer.json()["id"]


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Server]:
    started = Server(database_url, tmp_path)
    yield started
    started.stop()


def test_repeated_posts_happen_once_over_kills_of_the_server(server: Server) -> None:
    with server.client() as api:
        session = api.post("/sessions", json={}).json()["id"]
    path = f"/sessions/{session}/messages"
    writers = [Writer(server, path, f"{kill}-{n}") for kill in range(KILLS) for n in range(WRITERS)]
    for kill in range(KILLS):
        stopped = threading.Event()
        with ThreadPoolExecutor(WRITERS) as pool:
            mine = writers[kill * WRITERS : (kill + 1) * WRITERS]
            running = [pool.submit(writer.write_until, stopped) for writer in mine]
            time.sleep(0.6)
            server.stop(signal.SIGKILL)
            stopped.set()
            for one in running:
                one.result(20)
        server.start()
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(Writer.repeat, mine))
    sent = {content for writer in writers for content in writer.sent}
    assert len(sent) > KILLS * WRITERS * 2
    with server.client() as api:
        stored = everything(lambda cursor: api.get(path, params={"limit": "200"} | cursor).json())
        assert Counter(message["content"] for message in stored) == Counter(sent)
        heard = {content: id_ for writer in writers for content, id_ in writer.answered.items()}
        assert {message["content"]: message["id"] for message in stored} == heard
        positions = [message["position"] for message in stored]
        assert positions == sorted(set(positions))
        assert api.get(f"/sessions/{session}").json()["message_count"] == len(sent)


def everything(page_of: Callable[[dict[str, str]], dict[str, list[dict[str, str]]]]) -> list[dict[str, str]]:
    items: list[dict[str, str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = page_of(cursor)
        items += page["items"]
        if not page["has_more"]:
            return items
        cursor = {"cursor": str(page["next_cursor"])}
