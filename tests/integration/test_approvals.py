"""Runs that wait: for somebody to allow a call, or for a client to make it."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import QUICK, Server
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, events, make_agent, reaches, start, tells, types

DOOR = {
    "name": "open_door",
    "kind": "client",
    "description": "Opens a door",
    "schema": {"type": "object", "properties": {"door": {"type": "string"}}, "required": ["door"]},
}


@pytest.fixture
def api(deployment: Server) -> Iterator[httpx.Client]:
    with deployment.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _nothing_left_to_say(model: ModelServer) -> Iterator[None]:
    yield
    model._script.clear()


@pytest.fixture
def cautious(deployment: Server) -> Iterator[httpx.Client]:
    """A client of an owner for whom the calculator needs approval."""
    with deployment.client() as admin:
        made = admin.post("/admin/keys", json={"name": "cautious", "owner_id": "cautious", "scopes": ["admin"]}).json()
    with deployment.client(made["key"]) as client:
        client.post("/tools", json={"name": "calculator", "kind": "builtin", "requires_approval": True})
        yield client


def waiting(
    api: httpx.Client, model: ModelServer, *calls: Call, tools: tuple[str, ...] = ("calculator",)
) -> dict[str, Any]:
    model.script(Reply("Let me see.", calls=list(calls)), Reply("That is it."))
    run = start(api, make_agent(api, tools=list(tools)))
    return reaches(api, run["id"], "waiting")


def decide(api: httpx.Client, execution_id: str, call_id: str, **body: Any) -> httpx.Response:
    return api.post(f"/executions/{execution_id}/approvals/{call_id}", json=body)


def told(model: ModelServer) -> list[str]:
    """The results that the model heard last."""
    return [message["content"] for message in model.requests[-1]["messages"] if message["role"] == "tool"]


def test_the_model_calls_the_servers_own_tools(api: httpx.Client, model: ModelServer) -> None:
    model.script(
        Reply(calls=[Call("calculator", {"expression": "6 * 7"}), Call("current_time")]), Reply("It is forty-two.")
    )
    run = start(api, make_agent(api, tools=["calculator", "current_time"]))
    done = ended(api, run["id"])
    assert done["status"] == "completed", done
    calls = api.get(f"/executions/{run['id']}/tool-calls").json()["items"]
    assert [(call["name"], call["status"]) for call in calls] == [
        ("calculator", "completed"),
        ("current_time", "completed"),
    ]
    assert calls[0]["output"] == {"result": 42}
    told_of = [kind for kind in types(api, run["id"]) if kind != "execution.token"]
    assert told_of == [
        *["execution.queued", "execution.started"],
        *["tool.started", "tool.started", "tool.completed", "tool.completed"],
        *["execution.progress", "execution.completed"],
    ]
    answer = api.get(f"/messages/{done['output_message_id']}").json()
    assert answer["content"] == "It is forty-two."
    assert [call["name"] for call in answer["tool_calls"]] == ["calculator", "current_time"]


def test_a_call_waits_until_it_is_approved(cautious: httpx.Client, model: ModelServer) -> None:
    run = waiting(cautious, model, Call("calculator", {"expression": "6 * 7"}, id="c1"))
    session = cautious.get(f"/sessions/{run['session_id']}").json()
    agent = cautious.get(f"/agents/{run['agent_id']}").json()
    assert (session["status"], agent["status"]) == ("waiting", "waiting")
    asked = tells(cautious, run["id"], "approval.requested")
    assert asked["data"]["arguments"] == {"expression": "6 * 7"}
    assert asked["data"]["expires_at"] > run["started_at"]
    went_on = decide(cautious, run["id"], "c1", decision="approve")
    assert went_on.status_code == 200, went_on.text
    assert went_on.json()["status"] in {"queued", "running"}
    done = ended(cautious, run["id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert "42" in told(model)[0]
    answer = cautious.get(f"/messages/{done['output_message_id']}").json()
    assert answer["content"] == "Let me see.\n\nThat is it."
    assert "execution.restarted" not in types(cautious, run["id"])
    assert cautious.get(f"/sessions/{run['session_id']}").json()["status"] == "idle"


def test_the_first_word_of_a_run_is_told_while_it_lives_and_stays_over_a_wait(
    cautious: httpx.Client, model: ModelServer
) -> None:
    run = waiting(cautious, model, Call("calculator", {"expression": "1"}, id="c1"))
    assert run["first_token_at"] is not None
    decide(cautious, run["id"], "c1", decision="approve")
    assert ended(cautious, run["id"])["first_token_at"] == run["first_token_at"]


def test_an_approval_may_change_the_arguments(cautious: httpx.Client, model: ModelServer) -> None:
    run = waiting(cautious, model, Call("calculator", {"expression": "6 * 7"}, id="c1"))
    decide(cautious, run["id"], "c1", decision="approve", arguments={"expression": "1 + 1"})
    assert ended(cautious, run["id"])["status"] == "completed"
    assert "1 + 1" in told(model)[0]
    call = cautious.get(f"/executions/{run['id']}/tool-calls").json()["items"][0]
    assert call["arguments"] == {"expression": "1 + 1"}
    resolved = next(event for event in events(cautious, run["id"]) if event["type"] == "approval.resolved")
    assert resolved["data"]["arguments"] == {"expression": "1 + 1"}


def test_arguments_that_do_not_fit_are_refused_and_the_call_waits_on(
    cautious: httpx.Client, model: ModelServer
) -> None:
    run = waiting(cautious, model, Call("calculator", {"expression": "6 * 7"}, id="c1"))
    for decision, arguments in (("approve", {"sum": 1}), ("reject", {"expression": "1"})):
        refused = decide(cautious, run["id"], "c1", decision=decision, arguments=arguments)
        assert [error["field"] for error in refused.json()["validation_errors"]] == ["arguments"]
    changed = {"decision": "approve", "arguments": {"expression": "2"}}
    assert decide(cautious, run["id"], "c1", **changed).status_code == 200
    assert ended(cautious, run["id"])["status"] == "completed"
    assert decide(cautious, run["id"], "c1", **changed).json()["status"] == "completed"
    assert decide(cautious, run["id"], "c1", decision="approve", arguments={"expression": "3"}).status_code == 409


def test_a_rejection_is_told_to_the_model_with_its_reason(cautious: httpx.Client, model: ModelServer) -> None:
    run = waiting(cautious, model, Call("calculator", {"expression": "6 * 7"}, id="c1"))
    decide(cautious, run["id"], "c1", decision="reject", reason="Too dear")
    assert ended(cautious, run["id"])["status"] == "completed"
    assert "Too dear" in told(model)[0]
    assert cautious.get(f"/executions/{run['id']}/tool-calls").json()["items"][0]["status"] == "rejected"


def test_a_decision_stays(cautious: httpx.Client, model: ModelServer) -> None:
    run = waiting(
        cautious,
        model,
        Call("calculator", {"expression": "1"}, id="a"),
        Call("calculator", {"expression": "2"}, id="b"),
    )
    assert decide(cautious, run["id"], "a", decision="approve").json()["status"] == "waiting"
    assert decide(cautious, run["id"], "a", decision="approve").status_code == 200
    changed = decide(cautious, run["id"], "a", decision="reject")
    assert (changed.status_code, changed.json()["code"]) == (409, "conflict")
    assert decide(cautious, run["id"], "b", decision="reject").status_code == 200
    assert ended(cautious, run["id"])["status"] == "completed"
    assert len(told(model)) == 2


def test_nobody_else_decides(cautious: httpx.Client, api: httpx.Client, deployment: Server, model: ModelServer) -> None:
    run = waiting(cautious, model, Call("calculator", {"expression": "1"}, id="c1"))
    made = api.post("/admin/keys", json={"name": "o", "owner_id": "other", "scopes": ["agents:execute"]}).json()
    with deployment.client(made["key"]) as other:
        assert decide(other, run["id"], "c1", decision="approve").status_code == 404
        assert other.get(f"/executions/{run['id']}/tool-calls").status_code == 404
    assert decide(cautious, run["id"], "unknown", decision="approve").status_code == 404
    bad = decide(cautious, run["id"], "c1", decision="perhaps")
    assert [error["field"] for error in bad.json()["validation_errors"]] == ["decision"]
    assert cautious.post(f"/executions/{run['id']}/cancel").json()["status"] == "cancelled"
    late = decide(cautious, run["id"], "c1", decision="approve")
    assert late.status_code == 409
    assert types(cautious, run["id"])[-1] == "execution.cancelled"
    assert cautious.get(f"/executions/{run['id']}/tool-calls").json()["items"][0]["status"] == "interrupted"


def test_execute_answers_with_the_execution_that_waits(cautious: httpx.Client, model: ModelServer) -> None:
    model.script(Reply(calls=[Call("calculator", {"expression": "1"}, id="c1")]), Reply("Done."))
    agent_id = make_agent(cautious, tools=["calculator"])
    answer = cautious.post(f"/agents/{agent_id}/execute", json={"message": "x"})
    assert (answer.status_code, answer.json()["status"]) == (202, "waiting")
    assert answer.headers["location"] == f"/api/v1/executions/{answer.json()['id']}"
    decide(cautious, answer.json()["id"], "c1", decision="approve")
    assert ended(cautious, answer.json()["id"])["status"] == "completed"


def test_a_client_runs_its_own_tool(api: httpx.Client, model: ModelServer) -> None:
    api.post("/tools", json=DOOR)
    run = waiting(api, model, Call("open_door", {"door": "front"}, id="c1"), tools=("open_door",))
    begun = tells(api, run["id"], "tool.started")["data"]
    assert (begun["kind"], begun["arguments"]) == ("client", {"door": "front"})
    path = f"/executions/{run['id']}/tool-results/c1"
    assert api.post(path, json={"output": {"opened": True}}).status_code == 200
    done = ended(api, run["id"])
    assert done["status"] == "completed"
    assert '"opened"' in told(model)[0]
    told_of = [event for event in events(api, run["id"]) if event["type"] == "tool.completed"]
    assert [event["data"]["output"] for event in told_of] == [{"opened": True}]
    assert api.post(path, json={"output": {"opened": True}}).status_code == 200
    assert api.post(path, json={"output": "else"}).status_code == 409


def test_a_failed_client_tool_is_told_as_failed(api: httpx.Client, model: ModelServer) -> None:
    api.post("/tools", json=DOOR)
    run = waiting(api, model, Call("open_door", {"door": "back"}, id="c1"), tools=("open_door",))
    api.post(f"/executions/{run['id']}/tool-results/c1", json={"output": "It is stuck", "is_error": True})
    assert ended(api, run["id"])["status"] == "completed"
    assert "It is stuck" in told(model)[0]
    assert "tool.failed" in types(api, run["id"])


def test_the_same_result_from_two_clients_lets_the_run_go_on_once(api: httpx.Client, model: ModelServer) -> None:
    api.post("/tools", json=DOOR)
    run = waiting(api, model, Call("open_door", {"door": "side"}, id="c1"), tools=("open_door",))
    path, asked, answers = f"/executions/{run['id']}/tool-results/c1", len(model.requests), []

    def post() -> None:
        answers.append(api.post(path, json={"output": 1}).status_code)

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8
    assert ended(api, run["id"])["status"] == "completed"
    assert len(model.requests) == asked + 1


def test_a_waiting_run_is_cancelled_at_once_and_frees_its_session(api: httpx.Client, model: ModelServer) -> None:
    api.post("/tools", json=DOOR)
    run = waiting(api, model, Call("open_door", {"door": "x"}, id="c1"), tools=("open_door",))
    model._script.clear()
    next_run = start(api, run["agent_id"], "next", session_id=run["session_id"], on_busy="enqueue")
    cancelled = api.post(f"/executions/{run['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert api.get(f"/messages/{cancelled['output_message_id']}").json()["content"] == "Let me see."
    assert ended(api, next_run["id"])["status"] == "completed"


def test_a_message_interrupts_a_run_that_waits(api: httpx.Client, model: ModelServer) -> None:
    api.post("/tools", json=DOOR)
    run = waiting(api, model, Call("open_door", {"door": "x"}, id="c1"), tools=("open_door",))
    model._script.clear()
    urgent = start(api, run["agent_id"], "now", session_id=run["session_id"], on_busy="interrupt")
    assert ended(api, urgent["id"])["status"] == "completed"
    assert api.get(f"/executions/{run['id']}").json()["status"] == "cancelled"


def test_what_nobody_answers_expires_and_the_run_goes_on(
    database_url: str, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hasty = {"AI_AGENT_APPROVAL_TIMEOUT_SECONDS": "0.5", "OPENAI_BASE_URL": f"{model.url}/v1"}
    server = Server(database_url, tmp_path_factory.mktemp("hasty"), **hasty, **QUICK)
    try:
        with server.client() as api:
            api.post("/tools", json={"name": "calculator", "kind": "builtin", "requires_approval": True})
            api.post("/tools", json=DOOR)
            calls = [Call("calculator", {"expression": "1"}, id="c1"), Call("open_door", {"door": "x"}, id="c2")]
            model.script(Reply(calls=calls), Reply("Without, then."))
            run = start(api, make_agent(api, tools=["calculator", "open_door"]))
            assert ended(api, run["id"])["status"] == "completed"
            assert ["in time" in result for result in told(model)] == [True, True]
            kinds = types(api, run["id"])
            assert {"approval.requested", "approval.expired", "tool.failed"} <= set(kinds)
            assert "approval.resolved" not in kinds
            late = decide(api, run["id"], "c1", decision="approve")
            assert (late.status_code, late.json()["details"]["status"]) == (409, "expired")
    finally:
        server.stop()
