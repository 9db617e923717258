"""Providers that hang, break off, refuse and talk nonsense, and clients that leave: no run is left behind."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Server
from tests.faults.driving import LONG, database_of, make_agent, speaking, until
from tests.faults.oracle import assert_well
from tests.integration.test_executions import started
from tests.model_server import ModelServer, Reply
from tests.runs import SSE

FAILING = {
    "hangs": ([Reply(hang=True)], "timeout_error", None),
    "breaks off": ([Reply("one two three", reset_after=2)], "external_service_error", "one two"),
    "ends early": ([Reply("one two three", cut=True)], "external_service_error", "one two three"),
    "is broken": ([Reply(status=500)] * 3, "external_service_error", None),
    "refuses": ([Reply(status=400)], "external_service_error", None),
    "is busy for long": ([Reply(status=429, headers={"retry-after": "3600"})], "external_service_error", None),
    "talks nonsense": ([Reply(garbage=True)] * 3, "external_service_error", None),
    "never ends": ([Reply("word", endless=True, delay=0.01)], "timeout_error", "word"),
}
PASSING = {
    "is busy for a second": ([Reply(status=429, headers={"retry-after": "1"})], 1.0),
    "is broken for a moment": ([Reply(status=500)] * 2, 0.0),
}


@pytest.fixture
def api(deployed: Server, model: ModelServer) -> Iterator[httpx.Client]:
    with deployed.client() as client:
        yield client
    model._script.clear()


@pytest.fixture
def url(deployed: Server) -> str:
    return database_of(deployed)


@pytest.mark.parametrize("provider", FAILING)
def test_a_run_of_a_provider_that_fails_ends_with_its_error(
    api: httpx.Client, model: ModelServer, url: str, provider: str
) -> None:
    replies, code, said = FAILING[provider]
    model.script(*replies)
    path = started(api, make_agent(api), timeout_seconds=1.5 if code == "timeout_error" else 20)
    (run,) = assert_well(api, url, [path], time.monotonic())
    assert (run["status"], run["error"]["code"], run["attempt"]) == ("failed", code, 1)
    assert "secret inside" not in str(run)
    if said is None:
        assert run["output_message_id"] is None
    else:
        assert api.get(f"/messages/{run['output_message_id']}").json()["content"].startswith(said)


@pytest.mark.parametrize("provider", PASSING)
def test_a_provider_that_comes_back_is_asked_again(
    api: httpx.Client, model: ModelServer, url: str, provider: str
) -> None:
    replies, seconds = PASSING[provider]
    asked = time.monotonic()
    path = speaking(api, model, *replies, Reply("at last"))
    assert time.monotonic() - asked >= seconds
    (run,) = assert_well(api, url, [path], asked)
    assert run["status"] == "completed"
    assert api.get(f"/messages/{run['output_message_id']}").json()["content"] == "at last"


def test_a_hung_provider_of_an_impatient_agent_ends_the_run(api: httpx.Client, model: ModelServer, url: str) -> None:
    model.script(*[Reply(hang=True)] * 3)
    path = started(api, make_agent(api, timeout_seconds=0.5))
    (run,) = assert_well(api, url, [path], time.monotonic())
    assert (run["status"], run["error"]["code"]) == ("failed", "timeout_error")


@pytest.mark.parametrize("cancels", [False, True])
def test_a_client_that_goes_away_takes_its_run_along_only_if_it_said_so(
    api: httpx.Client, model: ModelServer, url: str, cancels: bool
) -> None:
    model.script(Reply("word " * 40, delay=0.05))
    query = {"cancel_on_disconnect": "true"} if cancels else {}
    path = f"/agents/{make_agent(api)}/execute/stream"
    with api.stream("POST", path, params=query, json={"message": "x"}) as response:
        run = response.headers["content-location"].removeprefix("/api/v1")
        next(line for line in response.iter_lines() if line == "event: execution.token")
    left = time.monotonic()
    (ended,) = assert_well(api, url, [run], left)
    assert ended["status"] == ("cancelled" if cancels else "completed")
    assert (time.monotonic() - left < 1.5) is cancels


def test_a_reader_that_goes_away_cancels_nothing(api: httpx.Client, model: ModelServer, url: str) -> None:
    paths = [speaking(api, model, Reply("word " * 20, delay=0.05))]
    for _ in range(5):
        with api.stream("GET", f"{paths[0]}/events", headers=SSE) as response:
            next(line for line in response.iter_lines() if line == "event: execution.token")
    (run,) = assert_well(api, url, paths, time.monotonic())
    assert run["status"] == "completed"


def test_a_cancelled_run_leaves_its_provider_and_its_session(api: httpx.Client, model: ModelServer, url: str) -> None:
    path, before = speaking(api, model, LONG), model.disconnects
    assert api.post(f"{path}/cancel").json()["status"] == "cancelled"
    until(lambda: model.disconnects > before, seconds=3)
    assert_well(api, url, [path], time.monotonic())
