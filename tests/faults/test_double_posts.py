"""Twenty clients that post to one session at the same time, under each policy, in one process and in several."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.conftest import Cluster, Server
from tests.faults.driving import make_agent
from tests.faults.oracle import History, Item, assert_well
from tests.integration.test_executions import heard
from tests.model_server import ModelServer, Reply

CLIENTS = 20
SLOW = Reply("some words that take a while", delay=0.05)


@pytest.fixture(scope="module", params=["one process", "cluster"])
def server(
    request: pytest.FixtureRequest, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        yield cluster.api
        return
    folder = tmp_path_factory.mktemp("server")
    alone = Server(f"sqlite:///{folder}/test.db", folder, OPENAI_BASE_URL=f"{model.url}/v1")
    yield alone
    alone.stop()


@pytest.fixture
def api(server: Server, model: ModelServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
    model._script.clear()


class Crowd:
    """Clients of one session, whose messages are their numbers."""

    def __init__(self, server: Server, api: httpx.Client, on_busy: str):
        self._server, self._api, self._on_busy = server, api, on_busy
        self.session = str(api.post("/sessions", json={}).json()["id"])
        self._agent = make_agent(api)

    def post(self) -> list[httpx.Response]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(self._one, range(CLIENTS)))

    def _one(self, number: int) -> httpx.Response:
        body: dict[str, Any] = {"message": f"{number}", "session_id": self.session, "on_busy": self._on_busy}
        with self._server.client() as api:
            return api.post(f"/agents/{self._agent}/executions", json=body)

    def interrupting(self, model: ModelServer, text: str) -> httpx.Response:
        """A run that has said a word of a long answer."""
        model.script(Reply(text, delay=0.05))
        posted = self._one(0)
        heard(self._api, f"/executions/{posted.json()['id']}", "answer")
        return posted

    def ended(self, posted: list[httpx.Response]) -> tuple[list[Item], list[Item]]:
        """The runs that were accepted, as they ended, and the messages of the session in their order."""
        paths = [f"/executions/{one.json()['id']}" for one in posted if one.status_code == 202]
        url = self._server.environment["AI_AGENT_DATABASE_URL"]
        runs = assert_well(self._api, url, paths, time.monotonic())
        history = History.read(self._api, self.session)
        assert history.executions.keys() == {run["id"] for run in runs}
        return runs, history.messages


def said(messages: list[Item]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def test_one_of_many_is_accepted_and_the_others_are_refused(
    server: Server, api: httpx.Client, model: ModelServer
) -> None:
    crowd, accepted = Crowd(server, api, "reject"), list[httpx.Response]()
    for _ in range(2):
        model.go_on.clear()
        model.script(Reply("one two", pause_after=1))
        posted = crowd.post()
        model.go_on.set()
        assert sorted(one.status_code for one in posted) == [202] + [409] * (CLIENTS - 1)
        assert {one.json()["code"] for one in posted if one.status_code == 409} == {"session_busy"}
        accepted += [one for one in posted if one.status_code == 202]
        runs, messages = crowd.ended(accepted)
        assert {run["status"] for run in runs} == {"completed"}
    assert [role for role, _ in said(messages)] == ["user", "assistant"] * 2


def test_many_that_wait_are_answered_one_after_the_other(server: Server, api: httpx.Client, model: ModelServer) -> None:
    crowd = Crowd(server, api, "enqueue")
    posted = crowd.post()
    assert {one.status_code for one in posted} == {202}
    runs, messages = crowd.ended(posted)
    assert {run["status"] for run in runs} == {"completed"}
    questions = [text for role, text in said(messages) if role == "user"]
    assert sorted(questions, key=int) == [f"{number}" for number in range(CLIENTS)]
    assert said(messages) == [
        pair for text in questions for pair in (("user", text), ("assistant", f"You said: {text}"))
    ]
    chain = [None, *[message["id"] for message in messages]]
    assert [message["parent_message_id"] for message in messages] == chain[:-1]
    times = sorted((run["started_at"], run["finished_at"]) for run in runs)
    assert all(before[1] <= after[0] for before, after in pairwise(times))


def test_the_last_of_many_that_interrupt_each_other_is_answered(
    server: Server, api: httpx.Client, model: ModelServer
) -> None:
    model.script(*[SLOW] * CLIENTS)
    crowd = Crowd(server, api, "interrupt")
    posted = crowd.post()
    assert {one.status_code for one in posted} == {202}
    runs, messages = crowd.ended(posted)
    assert {run["status"] for run in runs} <= {"completed", "cancelled"}
    assert max(runs, key=lambda run: str(run["finished_at"]))["status"] == "completed"
    assert len([message for message in messages if message["role"] == "user"]) == CLIENTS
    assert messages[-1]["content"] == SLOW.text
    for message in messages:
        assert message["role"] == "user" or SLOW.text.startswith(message["content"])


def test_an_interrupted_run_keeps_what_it_has_said(server: Server, api: httpx.Client, model: ModelServer) -> None:
    crowd = Crowd(server, api, "interrupt")
    posted = [crowd.interrupting(model, f"answer {number} that is never told to its end " * 9) for number in range(3)]
    model.script(SLOW)
    posted += crowd.post()
    runs, messages = crowd.ended(posted)
    assert [run["status"] for run in runs[:3]] == ["cancelled"] * 3
    kept = {message["execution_id"]: message["content"] for message in messages if message["role"] == "assistant"}
    assert all(kept[run["id"]].startswith(f"answer {number}") for number, run in enumerate(runs[:3]))


def test_many_that_roll_each_other_back_leave_only_what_was_answered(
    server: Server, api: httpx.Client, model: ModelServer
) -> None:
    model.script(*[SLOW] * CLIENTS)
    crowd = Crowd(server, api, "rollback")
    posted = crowd.post()
    assert {one.status_code for one in posted} == {202}
    runs, messages = crowd.ended(posted)
    answered = [run for run in runs if run["status"] == "completed"]
    assert answered
    assert {run["status"] for run in runs} <= {"completed", "cancelled"}
    kept = {run["input_message_id"] for run in answered} | {run["output_message_id"] for run in answered}
    assert {message["id"] for message in messages} == kept
    assert [role for role, _ in said(messages)] == ["user", "assistant"] * len(answered)
    for run in runs:
        assert run in answered or (run["input_message_id"], run["output_message_id"]) == (None, None)
