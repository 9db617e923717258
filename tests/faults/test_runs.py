"""Live runs, and what they stand on killed, frozen, stopped or restarted: each ends once, and its session is whole."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import httpx
import pytest

from tests.conftest import Cluster, Server, WorkerProcess, create_database
from tests.faults.driving import LONG, Reader, database_of, make_agent, speaking, until
from tests.faults.oracle import History, Item, assert_well, faults, log
from tests.integration.test_executions import heard, started
from tests.model_server import Call, ModelServer, Reply
from tests.servers import PostgresServer, ValkeyServer

TOOL_RUN = [Reply("First I look. ", calls=[Call("current_time", {})]), LONG]
ASKING = Reply("May I? ", calls=[Call("calculator", {"expression": "6 * 7"})])
RUNS = 20


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """One of the module's own, that may be restarted."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cluster(
    postgres: PostgresServer, valkey: ValkeyServer, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    started = Cluster(create_database(postgres.url), valkey, folder, OPENAI_BASE_URL=f"{model.url}/v1")
    yield started
    started.stop()


@pytest.fixture
def api(cluster: Cluster, model: ModelServer) -> Iterator[httpx.Client]:
    with cluster.api.client() as client:
        yield client
    model._script.clear()
    for worker in cluster.workers:
        if worker.process.poll() is not None:
            worker.start()


def approve(api: httpx.Client, path: str) -> None:
    (call,) = api.get(f"{path}/tool-calls").json()["items"]
    assert api.post(f"{path}/approvals/{call['call_id']}", json={"decision": "approve"}).status_code == 200


def several(api: httpx.Client, model: ModelServer) -> list[str]:
    """Runs of all kinds: three that speak, one that speaks after a tool, and one that waits for an approval."""
    api.post("/tools", json={"name": "calculator", "kind": "builtin", "requires_approval": True})
    waiting = speaking(api, model, ASKING, agent_id=make_agent(api, ["calculator"]))
    until(lambda: api.get(waiting).json()["status"] == "waiting")
    tool = speaking(api, model, *TOOL_RUN, agent_id=make_agent(api, ["current_time"]))
    paths = [speaking(api, model, LONG) for _ in range(3)]
    for path in [tool, *paths]:
        heard(api, path, "word")
    return [waiting, tool, *paths]


def assert_told(reader: Reader, api: httpx.Client, path: str) -> None:
    """A reader that came back has heard all that the log holds, once, the new start among it."""
    events = reader.whole()
    assert events == log(api, path)
    assert "execution.restarted" in [event["type"] for event in events]


def test_the_only_process_is_killed_in_the_middle_of_runs(alone: Server, model: ModelServer) -> None:
    with alone.client() as api:
        paths = several(api, model)
    readers = {path: Reader(alone, path) for path in paths[1:]}
    until(lambda: all(reader.events for reader in readers.values()))
    alone.stop(signal.SIGKILL)
    alone.start(alone.port)
    healed = time.monotonic()
    with alone.client() as api:
        approve(api, paths[0])
        runs = assert_well(api, database_of(alone), paths, healed)
        assert [(run["status"], run["attempt"]) for run in runs] == [("completed", 1)] + [("completed", 2)] * 4
        for path, reader in readers.items():
            assert_told(reader, api, path)
            assert reader.resumed > 1
        calls = [api.get(f"{path}/tool-calls").json()["items"] for path in paths[:2]]
        assert [[call["status"] for call in one] for one in calls] == [["completed"]] * 2
        answer = api.get(f"/messages/{runs[1]['output_message_id']}").json()["content"]
        assert answer.startswith("First I look. ")


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_worker_is_killed_or_frozen_in_the_middle_of_runs(
    cluster: Cluster, api: httpx.Client, model: ModelServer, fault: str
) -> None:
    worker, other = cluster.workers
    assert other.stop() == 0
    paths = several(api, model)
    readers = {path: Reader(cluster.api, path) for path in paths[1:]}
    other.start()
    worker.process.send_signal(signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
    begun = time.monotonic()
    approve(api, paths[0])
    runs = assert_well(api, database_of(cluster.api), paths, begun)
    assert [(run["status"], run["attempt"]) for run in runs] == [("completed", 1)] + [("completed", 2)] * 4
    for path, reader in readers.items():
        assert_told(reader, api, path)
    before = [log(api, path) for path in paths]
    if fault == "freeze":
        worker.process.send_signal(signal.SIGCONT)
        time.sleep(4)
        assert worker.process.poll() is None
    else:
        worker.process.wait(5)
    assert [log(api, path) for path in paths] == before
    assert_well(api, database_of(cluster.api), paths, time.monotonic())


def test_a_frozen_worker_that_wakes_up_says_nothing_more(
    cluster: Cluster, api: httpx.Client, model: ModelServer
) -> None:
    worker, other = cluster.workers
    assert other.stop() == 0
    path = speaking(api, model, LONG)
    heard(api, path, "word")
    other.start()
    second = Reply("again " * 60, delay=0.05)
    model.script(second)
    with worker.frozen():
        until(lambda: any("again" in str(event["data"]) for event in log(api, path)))
    (run,) = assert_well(api, database_of(cluster.api), [path], time.monotonic())
    assert (run["status"], run["attempt"]) == ("completed", 2)
    assert api.get(f"/messages/{run['output_message_id']}").json()["content"] == second.text
    assert worker.process.poll() is None
    until(lambda: "lease_lost" in worker.log.read_text(), seconds=5)


def restart_redis(cluster: Cluster, _: PostgresServer) -> None:
    cluster.redis.kill()
    time.sleep(1.5)
    cluster.redis.start()


def restart_postgres(_: Cluster, postgres: PostgresServer) -> None:
    postgres.process.send_signal(signal.SIGINT)
    postgres.process.wait(20)
    time.sleep(1.5)
    postgres.start()


def kill_postgres(_: Cluster, postgres: PostgresServer) -> None:
    postgres.process.kill()
    postgres.process.wait(10)
    time.sleep(1.5)
    postgres.start()


@pytest.mark.parametrize("restart", [restart_redis, restart_postgres, kill_postgres])
def test_what_runs_stand_on_is_restarted_and_they_go_on(
    cluster: Cluster,
    postgres: PostgresServer,
    api: httpx.Client,
    model: ModelServer,
    restart: Callable[[Cluster, PostgresServer], None],
) -> None:
    paths = several(api, model)
    restart(cluster, postgres)
    healed = time.monotonic()
    until(lambda: api.get(paths[0]).status_code == 200, seconds=2)
    approve(api, paths[0])
    paths.append(started(api, make_agent(api)))
    runs = assert_well(api, database_of(cluster.api), paths, healed)
    assert {run["status"] for run in runs} == {"completed"}
    if restart is restart_redis:
        assert {run["attempt"] for run in runs} == {1}


def test_a_stop_with_many_live_runs_leaves_them_all_to_the_next_start(alone: Server, model: ModelServer) -> None:
    with alone.client() as api:
        agent_id = make_agent(api)
        model.script(*[LONG] * RUNS)
        paths = [started(api, agent_id) for _ in range(RUNS)]
        for path in paths:
            heard(api, path, "word")
    stopping = time.monotonic()
    assert alone.stop() == 0
    assert time.monotonic() - stopping < 5  # The window of these tests is 2 s.
    assert "Traceback" not in alone.log.read_text()
    alone.start(alone.port)
    with alone.client() as api:
        runs = assert_well(api, database_of(alone), paths, time.monotonic())
        assert {(run["status"], run["attempt"]) for run in runs} == {("completed", 1)}


def test_a_stop_of_all_workers_with_many_live_runs_leaves_them_to_the_next_ones(
    cluster: Cluster, api: httpx.Client, model: ModelServer
) -> None:
    agent_id = make_agent(api)
    model.script(*[LONG] * RUNS)
    paths = [started(api, agent_id) for _ in range(RUNS)]
    for path in paths:
        heard(api, path, "word")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(WorkerProcess.stop, cluster.workers)) == [0, 0]
    for worker in cluster.workers:
        worker.start()
    runs = assert_well(api, database_of(cluster.api), paths, time.monotonic())
    assert {(run["status"], run["attempt"]) for run in runs} == {("completed", 1)}


def test_what_waits_behind_a_run_that_is_killed_has_its_turn(alone: Server, model: ModelServer) -> None:
    with alone.client() as api:
        first = speaking(api, model, LONG)
        run = api.get(first).json()
        more = {"session_id": run["session_id"], "on_busy": "enqueue"}
        paths = [first, *[started(api, run["agent_id"], **more) for _ in range(3)]]
        heard(api, first, "word")
    alone.stop(signal.SIGKILL)
    alone.start(alone.port)
    with alone.client() as api:
        runs = assert_well(api, database_of(alone), paths, time.monotonic())
        assert [(run["status"], run["attempt"]) for run in runs] == [("completed", 2)] + [("completed", 1)] * 3


def repeat_a_word(history: History) -> None:
    (events,) = history.events.values()
    token = next(event for event in events if event["type"] == "execution.token")
    events.insert(-1, token | {"seq": len(events)})
    events[-1]["seq"] += 1


def answer_again(history: History) -> None:
    history.messages.append(history.messages[-1] | {"id": "other", "position": 9})
    history.session["message_count"] += 1


DOCTORED: dict[str, Callable[[History, Item, list[Item]], Any]] = {
    "was answered 2 times": lambda history, _, __: answer_again(history),
    "counts 3 messages": lambda history, _, __: history.session.update(message_count=3),
    "have one position": lambda history, _, __: history.messages[1].update(position=history.messages[0]["position"]),
    "session is active": lambda history, _, __: history.session.update(status="active"),
    "is running": lambda _, run, __: run.update(status="running", finished_at=None),
    "its events end with": lambda _, __, events: events.append(events[-1] | {"seq": len(events) + 1}),
    "but its events end": lambda _, __, events: events.pop(),
    "have a gap": lambda _, __, events: events.pop(1),
    "characters were said": lambda history, _, __: repeat_a_word(history),
    "its answer 'You said: x!'": lambda history, _, __: history.messages[1].update(content="You said: x!"),
    "words of": lambda history, run, _: (history.messages[1].update(id="other"), run.update(output_message_id="other")),
    "its answer is": lambda _, run, __: run.update(output_message_id="other"),
    "is not there": lambda history, _, __: history.messages.pop(0),
    "follows no question": lambda history, _, __: history.messages[0].update(role="assistant", execution_id=None),
}


def test_the_oracle_sees_what_is_wrong(alone: Server) -> None:
    with alone.client() as api:
        answer = api.post(f"/agents/{make_agent(api)}/execute", json={"message": "x"}).json()
        history = History.read(api, answer["session_id"])
    assert faults(history) == []
    for told, doctor in DOCTORED.items():
        wrong = deepcopy(history)
        (run,) = wrong.executions.values()
        doctor(wrong, run, wrong.events[run["id"]])
        assert any(told in fault for fault in faults(wrong)), told
