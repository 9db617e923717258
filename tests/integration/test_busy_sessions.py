"""A session has one live run; what becomes of another one is said with it, or by its agent."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import Server
from tests.model_server import ModelServer, Reply
from tests.runs import ended, make_agent, messages, reaches, said, start

SLOW = Reply("one two three four five six seven eight nine ten", delay=0.15)


@pytest.fixture
def api(deployment: Server) -> Iterator[httpx.Client]:
    with deployment.client() as client:
        yield client


@pytest.fixture
def agent_id(api: httpx.Client) -> str:
    return make_agent(api)


def busy(api: httpx.Client, model: ModelServer, agent_id: str) -> tuple[str, str]:
    """A session, and the run in it that has begun to speak."""
    model.script(SLOW)
    live = start(api, agent_id, "first")
    said(api, live["id"], 2)
    return live["session_id"], live["id"]


def test_a_second_run_is_refused_and_told_which_one_is_live(
    api: httpx.Client, model: ModelServer, agent_id: str
) -> None:
    session_id, live = busy(api, model, agent_id)
    refused = api.post(f"/agents/{agent_id}/executions", json={"message": "second", "session_id": session_id})
    assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
    assert refused.json()["details"] == {"execution_id": live}
    assert ended(api, live)["status"] == "completed"
    assert [text for _, text in messages(api, session_id)] == ["first", SLOW.text]


def test_runs_that_wait_are_answered_in_order_each_behind_the_one_before(
    api: httpx.Client, model: ModelServer, agent_id: str
) -> None:
    session_id, _ = busy(api, model, agent_id)
    waiting = [
        start(api, agent_id, text, session_id=session_id, on_busy="enqueue") for text in ("second", "third", "fourth")
    ]
    assert {run["status"] for run in waiting} == {"queued"}
    assert api.get(f"/sessions/{session_id}").json()["status"] == "active"
    for run in waiting:
        assert ended(api, run["id"])["status"] == "completed"
    said_so = [
        ("user", "second"),
        ("assistant", "You said: second"),
        ("user", "third"),
        ("assistant", "You said: third"),
    ]
    assert messages(api, session_id)[2:6] == said_so
    asked = [message["content"] for message in model.requests[-1]["messages"]]
    assert asked == ["first", SLOW.text, "second", "You said: second", "third", "You said: third", "fourth"]
    session = api.get(f"/sessions/{session_id}").json()
    assert (session["status"], session["message_count"]) == ("idle", 8)
    items = api.get(f"/sessions/{session_id}/messages").json()["items"]
    assert [item["parent_message_id"] for item in items] == [None, *[item["id"] for item in items[:-1]]]


def test_a_waiting_run_can_be_cancelled_and_the_others_go_on(
    api: httpx.Client, model: ModelServer, agent_id: str
) -> None:
    session_id, live = busy(api, model, agent_id)
    second, third = (start(api, agent_id, text, session_id=session_id, on_busy="enqueue") for text in ("b", "c"))
    cancelled = api.post(f"/executions/{second['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert reaches(api, live, "running", "completed")["status"] == "running"
    assert ended(api, third["id"])["status"] == "completed"
    assert ended(api, live)["status"] == "completed"


def test_an_interrupting_run_stops_the_live_one_and_keeps_what_it_has_said(
    api: httpx.Client, model: ModelServer, agent_id: str
) -> None:
    session_id, live = busy(api, model, agent_id)
    queued = start(api, agent_id, "waits", session_id=session_id, on_busy="enqueue")
    urgent = start(api, agent_id, "now", session_id=session_id, on_busy="interrupt")
    stopped = ended(api, live, seconds=2)
    assert stopped["status"] == "cancelled"
    assert ended(api, urgent["id"])["status"] == "completed"
    assert ended(api, queued["id"])["status"] == "completed"
    told = messages(api, session_id)
    assert told[0] == ("user", "first")
    assert told[1][0] == "assistant"
    assert SLOW.text.startswith(told[1][1])
    assert told[2:] == [
        *[("user", "now"), ("assistant", "You said: now")],
        *[("user", "waits"), ("assistant", "You said: waits")],
    ]


def test_a_run_that_rolls_back_removes_what_it_interrupts(api: httpx.Client, model: ModelServer, agent_id: str) -> None:
    session_id, live = busy(api, model, agent_id)
    better = start(api, agent_id, "better", session_id=session_id, on_busy="rollback")
    gone = ended(api, live, seconds=2)
    assert (gone["status"], gone["input_message_id"], gone["output_message_id"]) == ("cancelled", None, None)
    assert ended(api, better["id"])["status"] == "completed"
    assert messages(api, session_id) == [("user", "better"), ("assistant", "You said: better")]
    assert api.get(f"/sessions/{session_id}").json()["message_count"] == 2
    assert [message["content"] for message in model.requests[-1]["messages"]] == ["better"]


def test_of_several_that_interrupt_the_newest_runs(api: httpx.Client, model: ModelServer, agent_id: str) -> None:
    session_id, live = busy(api, model, agent_id)
    runs = [start(api, agent_id, text, session_id=session_id, on_busy="interrupt")["id"] for text in ("b", "c", "d")]
    assert ended(api, runs[-1])["status"] == "completed"
    assert ended(api, live)["status"] == "cancelled"
    assert {ended(api, run)["status"] for run in runs[:-1]} <= {"cancelled", "completed"}
    assert messages(api, session_id)[-2:] == [("user", "d"), ("assistant", "You said: d")]


def test_an_agent_says_what_its_runs_do_where_the_session_is_busy(api: httpx.Client, model: ModelServer) -> None:
    patient = make_agent(api, config={"on_busy": "enqueue"})
    session_id, live = busy(api, model, patient)
    second = start(api, patient, "second", session_id=session_id)
    assert second["status"] == "queued"
    refused = api.post(
        f"/agents/{patient}/executions", json={"message": "third", "session_id": session_id, "on_busy": "reject"}
    )
    assert refused.status_code == 409
    assert ended(api, live)["status"] == "completed"
    assert ended(api, second["id"])["status"] == "completed"


def test_what_to_do_must_be_one_of_four(api: httpx.Client, agent_id: str) -> None:
    refused = api.post(f"/agents/{agent_id}/executions", json={"message": "x", "on_busy": "shout"})
    assert refused.status_code == 422
    assert refused.json()["validation_errors"][0]["field"] == "on_busy"


def test_a_cancelled_run_can_be_done_again_on_the_same_message(
    api: httpx.Client, model: ModelServer, agent_id: str
) -> None:
    session_id, live = busy(api, model, agent_id)
    early = api.post(f"/executions/{live}/retry")
    assert (early.status_code, early.json()["code"]) == (409, "conflict")
    stopped = api.post(f"/executions/{live}/cancel").json()
    again = api.post(f"/executions/{live}/retry")
    assert again.status_code == 202
    assert again.headers["location"] == f"/api/v1/executions/{again.json()['id']}"
    answered = ended(api, again.json()["id"])
    assert (answered["status"], answered["input_message_id"]) == ("completed", stopped["input_message_id"])
    assert messages(api, session_id)[-1] == ("assistant", "You said: first")
    done = api.post(f"/executions/{again.json()['id']}/retry")
    assert (done.status_code, done.json()["code"]) == (409, "conflict")


def test_a_repeated_retry_makes_one_run(api: httpx.Client, model: ModelServer, agent_id: str) -> None:
    model.script(Reply(status=400))
    failed = ended(api, start(api, agent_id)["id"])
    assert failed["error"]["code"] == "external_service_error"
    key = {"Idempotency-Key": "again"}
    first, second = (api.post(f"/executions/{failed['id']}/retry", headers=key) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert ended(api, first.json()["id"])["status"] == "completed"


def test_sessions_that_interrupt_each_others_agents_wait_for_nobody(
    deployment: Server, api: httpx.Client, model: ModelServer
) -> None:
    agents = [make_agent(api), make_agent(api)]
    sessions = [api.post("/sessions", json={}).json()["id"] for _ in range(2)]

    def post(number: int) -> int:
        body = {"message": str(number), "session_id": sessions[number % 2], "on_busy": "interrupt"}
        # Where one session goes from this agent to that, the other one goes from that to this.
        return api.post(f"/agents/{agents[(number // 2 + number) % 2]}/executions", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(64)))
    assert set(answers) == {202}
    for session_id in sessions:
        runs = api.get("/executions", params={"session_id": session_id, "limit": 100}).json()["items"]
        assert {ended(api, run["id"])["status"] for run in runs} <= {"cancelled", "completed"}
