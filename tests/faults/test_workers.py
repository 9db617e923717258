"""An API and two workers, of which one is killed, frozen or stopped, or their Redis: every run ends once."""

import signal
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.conftest import Cluster, WorkerProcess
from tests.integration.test_executions import agent, started, wait_for_end
from tests.model_server import ModelServer, Reply

LONG = Reply("word " * 100, delay=0.05)
"""Five seconds: longer than the window of a stop in tests."""


@pytest.fixture
def api(cluster: Cluster, model: ModelServer) -> Iterator[httpx.Client]:
    with cluster.api.client() as client:
        yield client
    assert not model._script
    for worker in cluster.workers:
        if worker.process.poll() is not None:
            worker.start()


@pytest.fixture
def begun(cluster: Cluster, api: httpx.Client, model: ModelServer) -> tuple[WorkerProcess, str]:
    """A worker and the path of the run that it has begun, while the other one waits for work."""
    busy, idle = cluster.workers
    assert idle.stop() == 0
    path = speaking(api, model, LONG)
    idle.start()
    return busy, path


def speaking(api: httpx.Client, model: ModelServer, reply: Reply) -> str:
    """The path of a run whose model has begun to say something."""
    asked = len(model.requests)
    model.script(reply)
    path = started(api, agent(api))
    deadline = time.monotonic() + 15
    while len(model.requests) == asked:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path


def answer(api: httpx.Client, execution: dict[str, Any]) -> list[str]:
    messages = api.get(f"/sessions/{execution['session_id']}/messages").json()["items"]
    return [message["content"] for message in messages]


def test_an_api_without_a_worker_leaves_the_runs_to_the_workers(api: httpx.Client, model: ModelServer) -> None:
    response = api.post(f"/agents/{agent(api)}/execute", json={"message": "x"})
    assert response.json()["content"] == "You said: x"


def test_runs_begin_at_once_and_each_ends_once(cluster: Cluster, api: httpx.Client) -> None:
    agent_id = agent(api)
    warm = [started(api, agent_id) for _ in range(8)]  # Each worker's first run imports the agent library.
    for path in warm:
        wait_for_end(api, path)
    runs = [wait_for_end(api, started(api, agent_id)) for _ in range(30)]
    waited = [(at(run["started_at"]) - at(run["queued_at"])).total_seconds() for run in runs]
    assert {run["status"] for run in runs} == {"completed"}
    assert all(answer(api, run) == ["x", "You said: x"] for run in runs)
    assert statistics.median(waited) < 0.03, waited
    print(f"start p50 {statistics.median(waited) * 1000:.1f} ms")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_killed_workers_run_is_taken_over(begun: tuple[WorkerProcess, str], api: httpx.Client) -> None:
    worker, path = begun
    worker.kill()
    killed = time.monotonic()
    execution = wait_for_end(api, path, seconds=15)
    assert time.monotonic() - killed < 11
    assert (execution["status"], execution["attempt"]) == ("completed", 2)
    assert answer(api, execution) == ["x", "You said: x"]


def test_a_frozen_workers_run_is_taken_over_and_its_late_words_are_refused(
    begun: tuple[WorkerProcess, str], api: httpx.Client
) -> None:
    worker, path = begun
    with worker.frozen():
        execution = wait_for_end(api, path, seconds=15)
    assert (execution["status"], execution["attempt"]) == ("completed", 2)
    time.sleep(4)
    assert answer(api, execution) == ["x", "You said: x"]
    assert api.get(path).json() == execution
    assert worker.process.poll() is None


def test_a_stopped_worker_leaves_its_run_to_another(begun: tuple[WorkerProcess, str], api: httpx.Client) -> None:
    worker, path = begun
    assert worker.stop() == 0
    left = time.monotonic()
    execution = wait_for_end(api, path)
    assert time.monotonic() - left < 3
    assert (execution["status"], execution["attempt"]) == ("completed", 1)
    assert answer(api, execution) == ["x", "You said: x"]
    assert "Traceback" not in worker.log.read_text()


def test_a_stopped_worker_ends_a_run_that_is_nearly_done(
    cluster: Cluster, api: httpx.Client, model: ModelServer
) -> None:
    path = speaking(api, model, Reply("word " * 10, delay=0.1))
    codes = [worker.stop() for worker in cluster.workers]
    execution = api.get(path).json()
    assert (execution["status"], execution["attempt"], codes) == ("completed", 1, [0, 0])


def test_a_second_signal_stops_a_worker_at_once(begun: tuple[WorkerProcess, str], api: httpx.Client) -> None:
    worker, path = begun
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert worker.process.poll() is None
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(1) == 1
    assert wait_for_end(api, path, seconds=15)["status"] == "completed"


def test_a_run_in_another_process_is_cancelled_within_a_second(
    begun: tuple[WorkerProcess, str], api: httpx.Client
) -> None:
    _, path = begun
    asked = time.monotonic()
    assert api.post(f"{path}/cancel").json()["status"] == "cancelled"
    assert time.monotonic() - asked < 1


@pytest.mark.parametrize("fault", ["kill", "flush", "lose"])
def test_runs_that_were_accepted_while_redis_was_away_end(
    cluster: Cluster, api: httpx.Client, model: ModelServer, fault: str
) -> None:
    agent_id, paths = agent(api), [speaking(api, model, LONG)]
    if fault == "flush":
        cluster.redis.ask("FLUSHALL")
    else:
        cluster.redis.kill()
    asked = time.monotonic()
    paths += [started(api, agent_id) for _ in range(5)]
    assert time.monotonic() - asked < 2
    if fault != "flush":
        cluster.redis.start(empty=fault == "lose")
    back = time.monotonic()
    runs = [wait_for_end(api, path) for path in paths]
    assert time.monotonic() - back < 8
    assert {(run["status"], run["attempt"]) for run in runs} == {("completed", 1)}
