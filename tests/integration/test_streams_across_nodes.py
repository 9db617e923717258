"""A run that was started at one node is followed at another one, and resumed at any, whatever becomes of Redis."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import Cluster, Server
from tests.model_server import ModelServer, Reply
from tests.runs import SSE, make_agent, start

WORDS = "one two three four"


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """The second one has a data directory of its own, as on another machine."""
    url = cluster.api.environment["AI_AGENT_DATABASE_URL"]
    second = Server(url, tmp_path_factory.mktemp("second"), "--no-worker", AI_AGENT_REDIS_URL=cluster.redis.url)
    with cluster.api.client() as here, second.client() as there:
        yield here, there
    second.stop()


def read(api: httpx.Client, path: str, since: str | None = None, until: str = "") -> tuple[list[dict[str, Any]], str]:
    """Events up to one with a word in it, or to the end, and the position of the last one."""
    headers = SSE if since is None else SSE | {"Last-Event-ID": since}
    events, position = [], ""
    with api.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("id: "):
                position = line[4:]
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if until and until in line:
                    break
    return events, position


@pytest.mark.parametrize("restart", [False, True], ids=["while Redis lives", "while Redis is killed and started anew"])
def test_a_stream_is_resumed_at_any_node(
    nodes: tuple[httpx.Client, httpx.Client], cluster: Cluster, model: ModelServer, *, restart: bool
) -> None:
    here, there = nodes
    model.go_on.clear()
    model.script(Reply(WORDS, pause_after=1))
    path = f"/executions/{start(here, make_agent(here))['id']}/events"
    with ThreadPoolExecutor() as pool:
        begun, position = read(there, path, until="one")
        to_the_end = pool.submit(read, there, path)
        if restart:
            cluster.redis.kill()
            cluster.redis.start()
            time.sleep(0.5)
        model.go_on.set()
        rest, _ = read(here, path, since=position)
        all_of_it, _ = to_the_end.result(20)
    assert begun + rest == all_of_it == read(there, path)[0]
    assert [event["seq"] for event in all_of_it] == list(range(1, len(all_of_it) + 1))
    assert "".join(event["data"]["text"] for event in all_of_it if event["type"] == "execution.token") == WORDS
    assert all_of_it[-1]["type"] == "execution.completed"
