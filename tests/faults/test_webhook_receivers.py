"""Receivers that hang, and servers that are killed between two attempts."""

import signal
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Server
from tests.integration.test_identity import Caller
from tests.model_server import ModelServer
from tests.webhook_receiver import Receiver, Says
from tests.webhooks import agent, finished, hooked_server, run, settled


@pytest.fixture(scope="module")
def server(database_url: str, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = hooked_server(database_url, model, tmp_path_factory.mktemp("server"))
    yield started
    started.stop()


def test_receivers_that_hang_keep_nobody_else_waiting(api: httpx.Client, receiver: Receiver, path: str) -> None:
    agent_id = agent(api)
    hanging = receiver.script(f"{path}-hangs", *[Says(hang=60)] * 8)
    hung = [run(api, hanging, agent_id) for _ in range(8)]
    receiver.wait(f"{path}-hangs", 4)
    answered = time.monotonic()
    run(api, receiver.url + path, agent_id)
    assert receiver.wait(path, 1)[0].at - answered < 1
    # No more than four of one address at once, and the others are not lost.
    assert len(receiver.got(f"{path}-hangs")) == 4
    receiver.wait(f"{path}-hangs", 8, seconds=20)
    errors = {settled(api, execution_id)["error"] for execution_id in hung[:4]}
    assert errors == {"No answer within 10 s"}


def test_an_owner_of_many_receivers_that_hang_keeps_only_his_own_waiting(
    server: Server, receiver: Receiver, path: str
) -> None:
    scopes = ("agents:execute", "agents:write")
    paths = [f"{path}-{number}" for number in range(20)]
    with Caller(server, "of-many", *scopes) as owner, Caller(server, "neighbour", *scopes) as other:
        agent_id, neighbours = agent(owner.http), agent(other.http)
        began = time.monotonic()
        for one in paths:
            run(owner.http, receiver.script(one, Says(hang=60)), agent_id)
        run(other.http, receiver.url + path, neighbours)
        answered = time.monotonic()
        assert receiver.wait(path, 1)[0].at - answered < 1
    assert time.monotonic() - began < 9, "too slow to tell"
    assert sum(len(receiver.got(one)) for one in paths) == 16
    for one in paths:
        receiver.wait(one, 1)


def test_deliveries_survive_a_kill_of_the_server(
    server: Server, receiver: Receiver, path: str, database_url: str
) -> None:
    with server.client() as api:
        waiting = run(api, receiver.script(path, Says(500, {"Retry-After": "3"})))
        settled(api, waiting)
        cut_off = run(api, receiver.script(f"{path}-hangs", Says(hang=60)))
        receiver.wait(f"{path}-hangs", 1)
    server.stop(signal.SIGKILL)
    server.start()
    with server.client() as api:
        assert finished(api, waiting)["status"] == "delivered"
        assert len(receiver.got(path)) == 2
        # What the killed process was about to send is left alone until its time is over.
        assert finished(api, cut_off, seconds=30)["attempts"] == 2
    assert len({got.headers["webhook-id"] for got in receiver.got(f"{path}-hangs")}) == 1


def test_two_processes_make_each_attempt_once(
    server: Server, receiver: Receiver, path: str, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {name: value for name, value in server.environment.items() if name.startswith(("AI_AGENT_", "OPENAI_"))}
    folder = tmp_path_factory.mktemp("second")
    second = Server(database_url, folder, **settings | {"AI_AGENT_DATA_DIR": str(folder)})
    try:
        with server.client() as api:
            agent_id = agent(api)
            # So slow at last that one process, which sends four at a time, leaves some to the other one.
            url = receiver.script(path, *[Says(500, {"Retry-After": "3"})] * 12, *[Says(hang=0.6)] * 12)
            runs = [run(api, url, agent_id) for _ in range(12)]
            ended = [finished(api, execution_id) for execution_id in runs]
        assert {(item["status"], item["attempts"]) for item in ended} == {("delivered", 2)}
        assert Counter(got.headers["webhook-id"] for got in receiver.got(path)) == {item["id"]: 2 for item in ended}
        attempted = [log.read_text().count("webhook_attempted") for log in (server.log, second.log)]
        assert min(attempted) > 0, attempted
    finally:
        second.stop()
