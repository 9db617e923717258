"""Runs of agents: answers, streams, errors, cancel, crash."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import Server
from tests.integration.test_agents import lose_leases
from tests.model_server import ModelServer, Reply
from tests.runs import SSE, TERMINAL, ended
from tests.runs import events as events_told
from tests.runs import types as types_told


def agent(api: httpx.Client, provider: str = "openai") -> str:
    body = {
        "name": f"a{time.monotonic_ns()}",
        "system_prompt": "Be brief.",
        "model_config": {"provider": provider, "model": "m"},
    }
    return str(api.post("/agents", json=body).json()["id"])


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_an_answer_is_stored_and_the_next_turn_sees_the_history(
    api: httpx.Client, model: ModelServer, provider: str
) -> None:
    agent_id = agent(api, provider)
    model.script(Reply("Hello there"))
    first = api.post(f"/agents/{agent_id}/execute", json={"message": "Hi"})
    assert first.status_code == 200, first.text
    answer = first.json()
    assert answer["content"] == "Hello there"
    assert answer["usage"]["output_tokens"] == 2
    api.post(f"/agents/{agent_id}/execute", json={"message": "Again", "session_id": answer["session_id"]})
    sent = json.dumps(model.requests[-1])
    assert all(text in sent for text in ("Be brief.", "Hi", "Hello there", "Again"))
    messages = api.get(f"/sessions/{answer['session_id']}/messages").json()["items"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["id"] == answer["message_id"]
    assert api.get(f"/sessions/{answer['session_id']}").json()["status"] == "idle"


def test_a_stream_tells_every_event_and_can_be_resumed(api: httpx.Client, model: ModelServer) -> None:
    agent_id = agent(api)
    model.script(Reply("one two three", delay=0.06))
    with api.stream("POST", f"/agents/{agent_id}/execute/stream", json={"message": "x"}) as response:
        assert response.headers["cache-control"] == "no-store"
        location = response.headers["content-location"]
        events = events_of(response)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "execution.queued"
    assert events[-1]["type"] == "execution.completed"
    tokens = [event["data"] for event in events if event["type"] == "execution.token"]
    assert len(tokens) > 1
    assert "".join(token["text"] for token in tokens) == "one two three"
    resumed = api.get(
        location.removeprefix("/api/v1") + "/events", headers={"Accept": "text/event-stream"}, params={"after": "3"}
    )
    assert events_of(resumed) == events[3:]


def test_a_run_goes_on_when_its_client_leaves(api: httpx.Client, model: ModelServer) -> None:
    agent_id = agent(api)
    model.script(Reply("a b c d e f", delay=0.1))
    with api.stream("POST", f"/agents/{agent_id}/execute/stream", json={"message": "x"}) as response:
        path = response.headers["content-location"].removeprefix("/api/v1")
    assert wait_for_end(api, path)["status"] == "completed"


def test_a_cancelled_run_stops_and_keeps_what_was_said(api: httpx.Client, model: ModelServer) -> None:
    agent_id = agent(api)
    model.script(Reply("word " * 100, delay=0.05))
    with api.stream("POST", f"/agents/{agent_id}/execute/stream", json={"message": "x"}) as response:
        path = response.headers["content-location"].removeprefix("/api/v1")
        for line in response.iter_lines():
            if line == "event: execution.token":
                break
        started = time.monotonic()
        cancelled = api.post(f"{path}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert time.monotonic() - started < 1
    message = api.get(f"/messages/{cancelled['output_message_id']}").json()
    assert message["content"].startswith("word")
    assert api.post(f"{path}/cancel").json()["status"] == "cancelled"


def test_a_session_has_one_live_run(api: httpx.Client, model: ModelServer) -> None:
    agent_id = agent(api)
    session_id = api.post("/sessions", json={}).json()["id"]
    model.script(Reply("slow answer here", delay=0.3))
    body = {"message": "x", "session_id": session_id}
    with api.stream("POST", f"/agents/{agent_id}/execute/stream", json=body) as response:
        busy = api.post(f"/agents/{agent_id}/execute", json=body)
        assert (busy.status_code, busy.json()["code"]) == (409, "session_busy")
        assert events_of(response)[-1]["type"] == "execution.completed"
    assert api.get(f"/sessions/{session_id}").json()["message_count"] == 2


@pytest.mark.parametrize(
    ("replies", "status"),
    [([Reply(status=400)], 502), ([Reply(status=500)] * 3, 503), ([Reply("a b c", reset_after=2)] * 3, 503)],
)
def test_a_providers_failure_is_told_without_its_words(
    api: httpx.Client, model: ModelServer, replies: list[Reply], status: int
) -> None:
    agent_id = agent(api)
    model.script(*replies)
    response = api.post(f"/agents/{agent_id}/execute", json={"message": "x"})
    assert (response.status_code, response.json()["code"]) == (status, "external_service_error"), response.text
    assert "secret inside" not in response.text
    execution = api.get(f"/executions/{response.json()['details']['execution_id']}").json()
    assert execution["status"] == "failed"
    model._script.clear()


def test_an_agent_without_a_model_cannot_run(api: httpx.Client) -> None:
    created = api.post("/agents", json={"name": f"bare{time.monotonic_ns()}"}).json()
    response = api.post(f"/agents/{created['id']}/execute", json={"message": "x"})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["validation_errors"]] == [
        "model_config.provider",
        "model_config.model",
    ]


def test_a_run_survives_a_kill_of_the_server(server: Server, model: ModelServer, database_url: str) -> None:
    with server.client() as api:
        agent_id = agent(api)
        model.script(Reply("never heard to the end " * 20, delay=0.05))
        body = {"message": "x"}
        headers = {"Prefer": "respond-async"}
        accepted = api.post(f"/agents/{agent_id}/execute", json=body, headers=headers)
        assert accepted.status_code == 202
        path = accepted.headers["location"].removeprefix("/api/v1")
        heard(api, path, "never")
    server.stop(signal.SIGKILL)
    lose_leases(database_url)
    server.start()
    with server.client() as api:
        execution = wait_for_end(api, path, seconds=25)
        assert (execution["status"], execution["attempt"]) == ("completed", 2)
        messages = api.get(f"/sessions/{execution['session_id']}/messages").json()["items"]
        assert [message["content"] for message in messages] == ["x", "You said: x"]


def started(api: httpx.Client, agent_id: str, **body: Any) -> str:
    """Starts a run and answers its path; nobody waits for its end."""
    headers = {"Prefer": "respond-async"}
    accepted = api.post(f"/agents/{agent_id}/execute", json={"message": "x", **body}, headers=headers)
    assert accepted.status_code == 202, accepted.text
    path = accepted.headers["location"]
    assert path == f"/api/v1/executions/{accepted.json()['id']}"
    return str(path.removeprefix("/api/v1"))


def heard(api: httpx.Client, path: str, word: str) -> None:
    """Waits until a run has said a word."""
    with api.stream("GET", f"{path}/events", headers=SSE) as response:
        lines = []
        for line in response.iter_lines():
            lines.append(line)
            if line.startswith("data: ") and word in line:
                return
    raise AssertionError(f"{word!r} was not said, but {response.status_code}: {lines}")


def test_execute_streams_when_the_body_asks_for_it(api: httpx.Client, model: ModelServer) -> None:
    body = {"message": "x", "stream": True}
    with api.stream("POST", f"/agents/{agent(api)}/execute", json=body) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = [line for line in response.iter_lines() if line]
    assert lines[0] == "retry: 2000"
    assert lines[-2] == "event: execution.completed"


def test_the_agent_in_the_body_must_be_that_of_the_path(api: httpx.Client) -> None:
    agent_id, other = agent(api), agent(api)
    body = {"message": "x", "agent_id": other}
    refused = api.post(f"/agents/{agent_id}/execute", json=body)
    assert refused.json()["validation_errors"][0]["field"] == "agent_id"
    assert api.post(f"/agents/{agent_id}/execute", json={"message": "x", "agent_id": agent_id}).status_code == 200


def test_an_execution_tells_all_about_itself(api: httpx.Client, model: ModelServer) -> None:
    agent_id = agent(api)
    model.script(Reply("hello you"))
    answer = api.post(f"/agents/{agent_id}/execute", json={"message": "x", "metadata": {"job": 7}}).json()
    execution = api.get(f"/executions/{answer['execution_id']}").json()
    assert execution["agent_id"] == agent_id
    assert (execution["agent_version"], execution["attempt"], execution["error"]) == (1, 1, None)
    assert (execution["session_id"], execution["output_message_id"]) == (answer["session_id"], answer["message_id"])
    assert execution["metadata"] == {"job": 7}
    assert (execution["usage"]["input_tokens"], execution["usage"]["output_tokens"]) == (7, 2)
    times = [execution[name] for name in ("queued_at", "started_at", "first_token_at", "finished_at")]
    assert times == sorted(times)
    assert api.get(f"/agents/{agent_id}").json()["status"] == "completed"


def test_events_are_read_in_pages(api: httpx.Client) -> None:
    path = (
        f"/executions/{api.post(f'/agents/{agent(api)}/execute', json={'message': 'x'}).json()['execution_id']}/events"
    )
    whole = api.get(path).json()
    assert whole["has_more"] is False
    types = [event["type"] for event in whole["items"]]
    assert types[:2] == ["execution.queued", "execution.started"]
    first = api.get(path, params={"limit": 2}).json()
    assert first["has_more"] is True
    rest = api.get(path, params={"after": first["items"][-1]["seq"]}).json()
    assert first["items"] + rest["items"] == whole["items"]


def test_a_stream_is_resumed_by_header_from_any_point_and_ends_after_the_end(api: httpx.Client) -> None:
    path = (
        f"/executions/{api.post(f'/agents/{agent(api)}/execute', json={'message': 'x'}).json()['execution_id']}/events"
    )
    with api.stream("GET", path, headers=SSE) as response:
        lines = list(response.iter_lines())
    ids = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    frames = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [frame["seq"] for frame in frames] == [int(identity.partition(":")[2]) for identity in ids]
    for position, identity in enumerate(ids, 1):
        resumed = api.get(path, headers=SSE | {"Last-Event-ID": identity})
        assert events_of(resumed) == frames[position:]
    refused = api.get(path, headers=SSE | {"Last-Event-ID": "nonsense"})
    assert refused.json()["validation_errors"][0]["field"] == "after"


def test_a_model_that_pauses_does_not_keep_its_last_words(api: httpx.Client, model: ModelServer) -> None:
    agent_id = agent(api)
    model.go_on.clear()
    model.script(Reply("one two three four", pause_after=3))
    with api.stream("POST", f"/agents/{agent_id}/execute/stream", json={"message": "x"}) as response:
        said = ""
        for line in response.iter_lines():
            if line.startswith("data: ") and "execution.token" in line:
                said += json.loads(line[6:])["data"]["text"]
            if said == "one two three":
                model.go_on.set()
    assert model.go_on.is_set()
    assert said == "one two three four"


def test_a_run_is_cancelled_with_its_client_when_that_was_asked_for(api: httpx.Client, model: ModelServer) -> None:
    agent_id = agent(api)
    model.script(Reply("word " * 100, delay=0.05))
    path = f"/agents/{agent_id}/execute/stream?cancel_on_disconnect=true"
    with api.stream("POST", path, json={"message": "x"}) as response:
        execution = response.headers["content-location"].removeprefix("/api/v1")
        next(line for line in response.iter_lines() if line == "event: execution.token")
    assert wait_for_end(api, execution, seconds=3)["status"] == "cancelled"


def test_a_cancelled_run_leaves_the_provider(api: httpx.Client, model: ModelServer) -> None:
    model.script(Reply("word " * 200, delay=0.02))
    path, before = started(api, agent(api)), model.disconnects
    heard(api, path, "word")
    assert api.post(f"{path}/cancel").json()["status"] == "cancelled"
    deadline = time.monotonic() + 3
    while model.disconnects == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert model.disconnects == before + 1


def test_a_run_that_is_cancelled_many_times_at_once_ends_once(api: httpx.Client, model: ModelServer) -> None:
    model.script(Reply("word " * 200, delay=0.02))
    path = started(api, agent(api))
    heard(api, path, "word")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post(f"{path}/cancel"), range(16)))
    assert {answer.status_code for answer in answers} == {202}
    execution = wait_for_end(api, path)
    assert (execution["status"], execution["attempt"]) == ("cancelled", 1)
    types = types_told(api, path.rpartition("/")[2])
    assert [kind for kind in types if kind in TERMINAL] == ["execution.cancelled"]


def test_a_run_that_takes_too_long_ends_and_keeps_what_was_said(api: httpx.Client, model: ModelServer) -> None:
    agent_id = agent(api)
    model.script(Reply("word " * 100, delay=0.05))
    response = api.post(f"/agents/{agent_id}/execute", json={"message": "x", "timeout_seconds": 0.6})
    assert (response.status_code, response.json()["code"]) == (504, "timeout_error")
    assert response.json()["details"]["timeout_duration"] == 0.6
    execution = api.get(f"/executions/{response.json()['details']['execution_id']}").json()
    assert (execution["status"], execution["error"]["code"]) == ("failed", "timeout_error")
    assert api.get(f"/messages/{execution['output_message_id']}").json()["content"].startswith("word word")
    assert api.get(f"/agents/{agent_id}").json()["status"] == "error"


def test_a_provider_that_is_busy_for_a_moment_is_asked_again(api: httpx.Client, model: ModelServer) -> None:
    model.script(Reply(status=429, headers={"retry-after": "1"}), Reply("at last"))
    answer = api.post(f"/agents/{agent(api)}/execute", json={"message": "x"})
    assert (answer.status_code, answer.json()["content"]) == (200, "at last")


def test_garbage_from_a_provider_is_an_external_error(api: httpx.Client, model: ModelServer) -> None:
    model.script(*[Reply(garbage=True)] * 3)
    response = api.post(f"/agents/{agent(api)}/execute", json={"message": "x"})
    assert response.json()["code"] == "external_service_error", response.text
    assert "garbage" not in response.text
    model._script.clear()


def test_a_session_is_active_while_a_run_is_live_and_deleting_it_ends_the_run(
    api: httpx.Client, model: ModelServer
) -> None:
    session = api.post("/sessions", json={}).json()["id"]
    model.script(Reply("word " * 200, delay=0.02))
    path, before = started(api, agent(api), session_id=session), model.disconnects
    heard(api, path, "word")
    assert api.get(f"/sessions/{session}").json()["status"] == "active"
    with api.stream("GET", f"{path}/events", headers=SSE) as response:
        assert api.delete(f"/sessions/{session}").status_code == 204
        for _ in response.iter_lines():
            pass
    assert api.get(path).status_code == 404
    deadline = time.monotonic() + 3
    while model.disconnects == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert model.disconnects == before + 1


def test_the_model_is_fed_the_branch_and_not_its_siblings(api: httpx.Client, model: ModelServer) -> None:
    session = api.post("/sessions", json={}).json()["id"]
    messages = f"/sessions/{session}/messages"
    root = api.post(messages, json={"content": "the root"}).json()["id"]
    api.post(messages, json={"content": "a dead end", "role": "assistant"})
    api.post(messages, json={"content": "the way", "role": "assistant", "parent_message_id": root})
    api.post(f"/agents/{agent(api)}/execute", json={"message": "onward", "session_id": session})
    sent = [message["content"] for message in model.requests[-1]["messages"]]
    assert sent == ["Be brief.", "the root", "the way", "onward"]


def test_a_stop_of_the_server_leaves_the_run_to_the_next_start(server: Server, model: ModelServer) -> None:
    with server.client() as api:
        model.script(Reply("never heard to the end " * 40, delay=0.05))
        path = started(api, agent(api))
        heard(api, path, "never")
    assert server.stop() == 0
    server.start()
    with server.client() as api:
        execution = wait_for_end(api, path, seconds=25)
        assert (execution["status"], execution["attempt"]) == ("completed", 1)
        types = types_told(api, path.rpartition("/")[2])
        assert types.count("execution.restarted") == 1
        assert [kind for kind in types if kind in TERMINAL] == ["execution.completed"]


def test_an_answer_is_kept_when_its_question_is_deleted_meanwhile(api: httpx.Client, model: ModelServer) -> None:
    model.go_on.clear()
    model.script(Reply("one two three", pause_after=1))
    path = started(api, agent(api))
    heard(api, path, "one")
    execution = api.get(path).json()
    assert api.delete(f"/messages/{execution['input_message_id']}").status_code == 204
    model.go_on.set()
    ended = wait_for_end(api, path, seconds=5)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)
    messages = api.get(f"/sessions/{execution['session_id']}/messages").json()["items"]
    assert [(message["content"], message["parent_message_id"]) for message in messages] == [("one two three", None)]


def test_what_a_failed_run_has_said_is_in_its_stream_to_the_last_word(api: httpx.Client, model: ModelServer) -> None:
    model.script(*[Reply("one two three four five", reset_after=5)] * 3)
    path = started(api, agent(api))
    execution = wait_for_end(api, path)
    stored = api.get(f"/messages/{execution['output_message_id']}").json()["content"]
    events = events_told(api, path.rpartition("/")[2])
    assert "".join(event["data"]["text"] for event in events if event["type"] == "execution.token") == stored
    assert stored.startswith("one")
    model._script.clear()


def test_deleting_a_session_frees_its_agent_and_tells_its_readers(api: httpx.Client, model: ModelServer) -> None:
    agent_id, session = agent(api), api.post("/sessions", json={}).json()["id"]
    model.script(Reply("word " * 200, delay=0.02))
    path = started(api, agent_id, session_id=session)
    heard(api, path, "word")
    assert api.get(f"/agents/{agent_id}").json()["status"] == "processing"
    with api.stream("GET", f"{path}/events", headers=SSE) as response:
        assert api.delete(f"/sessions/{session}").status_code == 204
        assert events_of(response)[-1]["type"] == "execution.cancelled"
    assert api.get(f"/agents/{agent_id}").json()["status"] == "idle"


@pytest.mark.parametrize("moment", range(0, 60, 6))
def test_a_cancel_at_any_moment_ends_the_run_once(api: httpx.Client, model: ModelServer, moment: int) -> None:
    model.script(Reply("one two"))
    path = started(api, agent(api))
    time.sleep(moment / 1000)
    api.post(f"{path}/cancel")
    execution = wait_for_end(api, path, seconds=4)
    assert execution["attempt"] == 1
    types = types_told(api, path.rpartition("/")[2])
    assert [kind for kind in types if kind in TERMINAL] == [f"execution.{execution['status']}"]
    assert ("execution.started" in types) == (execution["started_at"] is not None)
    model._script.clear()


def test_a_stop_of_the_server_tells_those_who_wait(server: Server, model: ModelServer) -> None:
    with server.client() as api, ThreadPoolExecutor(2) as pool:
        model.script(*[Reply("word " * 400, delay=0.05)] * 2)
        waiting = pool.submit(api.post, f"/agents/{agent(api)}/execute", json={"message": "x"})
        path = started(api, agent(api))
        heard(api, path, "word")
        with api.stream("GET", f"{path}/events", headers=SSE) as response:
            stopping = time.monotonic()
            server.process.terminate()
            for _ in response.iter_lines():
                pass
            assert time.monotonic() - stopping < 1.5
        answer = waiting.result(5)
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert answer.json()["details"]["execution_id"]
    assert server.process.wait(10) == 0
    assert time.monotonic() - stopping < 5  # The window of these tests is 2 s, and it is given once.
    assert "Traceback" not in server.log.read_text()
    server.start()


def wait_for_end(api: httpx.Client, path: str, seconds: float = 10) -> dict[str, Any]:
    """The execution when it has ended, and its end is told."""
    execution = ended(api, path.rpartition("/")[2], seconds)
    events_told(api, execution["id"])
    return execution
