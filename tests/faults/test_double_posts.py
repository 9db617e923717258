"""Twenty clients that post to one session at the same time, under each policy, in one process and in several."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.conftest import Server
from tests.faults.driving import database_of, make_agent, until
from tests.faults.oracle import History, Item, assert_well
from tests.integration.test_executions import heard
from tests.model_server import ModelServer, Reply

CLIENTS = 20
SLOW = Reply("some words that take a while", delay=0.05)


@pytest.fixture
def api(deployed: Server, model: ModelServer) -> Iterator[httpx.Client]:
    with deployed.client() as client:
        yield client
    model._script.clear()


class Crowd:
    """Clients of one session, whose messages are their numbers."""

    def __init__(self, server: Server, api: httpx.Client, on_busy: str):
        self._server, self.api, self._on_busy = server, api, on_busy
        self.session = str(api.post("/sessions", json={}).json()["id"])
        self._agent = make_agent(api)

    def post(self) -> list[httpx.Response]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(self._one, range(CLIENTS)))

    def _one(self, number: int) -> httpx.Response:
        with self._server.client() as api:
            return self._ask(api, number)

    def _ask(self, api: httpx.Client, number: int, **headers: str) -> httpx.Response:
        body: dict[str, Any] = {"message": f"{number}", "session_id": self.session, "on_busy": self._on_busy}
        return api.post(f"/agents/{self._agent}/executions", json=body, headers=headers)

    def interrupting(self, model: ModelServer, text: str) -> httpx.Response:
        """A run that has said a word of a long answer."""
        model.script(Reply(text, delay=0.05))
        posted = self._one(0)
        heard(self.api, f"/executions/{posted.json()['id']}", "answer")
        return posted

    def insist(self, number: int) -> httpx.Response:
        """Repeats the same request, with its key, until somebody answers it."""
        deadline = time.monotonic() + 40
        with self._server.client() as api:
            while time.monotonic() < deadline:
                with suppress(httpx.TransportError):
                    posted = self._ask(api, number, **{"Idempotency-Key": f"key-{number}"})
                    if posted.status_code == 202:
                        return posted
                time.sleep(0.3)
        raise AssertionError(f"nobody has accepted {number}")

    def ended(self, posted: list[httpx.Response], healed: float | None = None) -> tuple[list[Item], list[Item]]:
        """The runs that were accepted, as they ended, and the messages of the session in their order."""
        paths = [f"/executions/{one.json()['id']}" for one in posted if one.status_code == 202]
        runs = assert_well(self.api, database_of(self._server), paths, healed or time.monotonic())
        history = History.read(self.api, self.session)
        assert history.executions.keys() == {run["id"] for run in runs}
        return runs, history.messages


def said(messages: list[Item]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def test_one_of_many_is_accepted_and_the_others_are_refused(
    deployed: Server, api: httpx.Client, model: ModelServer
) -> None:
    crowd, accepted = Crowd(deployed, api, "reject"), list[httpx.Response]()
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


def test_many_that_wait_are_answered_one_after_the_other(
    deployed: Server, api: httpx.Client, model: ModelServer
) -> None:
    crowd = Crowd(deployed, api, "enqueue")
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
    deployed: Server, api: httpx.Client, model: ModelServer
) -> None:
    model.script(*[SLOW] * CLIENTS)
    crowd = Crowd(deployed, api, "interrupt")
    posted = crowd.post()
    assert {one.status_code for one in posted} == {202}
    runs, messages = crowd.ended(posted)
    assert {run["status"] for run in runs} <= {"completed", "cancelled"}
    assert max(runs, key=lambda run: str(run["finished_at"]))["status"] == "completed"
    assert len([message for message in messages if message["role"] == "user"]) == CLIENTS
    assert messages[-1]["content"] == SLOW.text
    for message in messages:
        assert message["role"] == "user" or SLOW.text.startswith(message["content"])


def test_an_interrupted_run_keeps_what_it_has_said(deployed: Server, api: httpx.Client, model: ModelServer) -> None:
    crowd = Crowd(deployed, api, "interrupt")
    posted = [crowd.interrupting(model, f"answer-{number} is not told to its end " * 9) for number in range(3)]
    model.script(SLOW)
    posted += crowd.post()
    runs, messages = crowd.ended(posted)
    assert [run["status"] for run in runs[:3]] == ["cancelled"] * 3
    kept = {message["execution_id"]: message["content"] for message in messages if message["role"] == "assistant"}
    assert [kept[run["id"]].split()[0] for run in runs[:3]] == [f"answer-{number}" for number in range(3)]


def test_many_that_roll_each_other_back_leave_only_what_was_answered(
    deployed: Server, api: httpx.Client, model: ModelServer
) -> None:
    model.script(*[SLOW] * CLIENTS)
    crowd = Crowd(deployed, api, "rollback")
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


def test_what_was_asked_around_a_kill_is_answered_once(alone: Server) -> None:
    with alone.client() as api:
        crowd = Crowd(alone, api, "enqueue")
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(crowd.insist, number) for number in range(CLIENTS)]
        until(lambda: any(one.done() for one in asking))
        alone.stop(signal.SIGKILL)
        alone.start(alone.port)
        healed = time.monotonic()
        posted = [one.result() for one in asking]
    with alone.client() as api:
        crowd.api = api
        runs, messages = crowd.ended(posted, healed)
    assert len({run["id"] for run in runs}) == CLIENTS
    assert {run["status"] for run in runs} == {"completed"}
    assert [role for role, _ in said(messages)] == ["user", "assistant"] * CLIENTS
