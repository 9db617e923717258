"""Runs of agents: answers, streams, errors, cancel, crash."""

import json
import signal
import time
from typing import Any

import httpx
import pytest

from tests.conftest import Server
from tests.model_server import ModelServer, Reply


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


def test_a_run_survives_a_kill_of_the_server(server: Server, model: ModelServer) -> None:
    with server.client() as api:
        agent_id = agent(api)
        model.script(Reply("never heard to the end " * 20, delay=0.05))
        body = {"message": "x"}
        headers = {"Prefer": "respond-async"}
        accepted = api.post(f"/agents/{agent_id}/execute", json=body, headers=headers)
        assert accepted.status_code == 202
        path = accepted.headers["location"].removeprefix("/api/v1")
        time.sleep(0.5)
    server.stop(signal.SIGKILL)
    server.start()
    with server.client() as api:
        execution = wait_for_end(api, path, seconds=25)
        assert (execution["status"], execution["attempt"]) == ("completed", 2)
        messages = api.get(f"/sessions/{execution['session_id']}/messages").json()["items"]
        assert [message["content"] for message in messages] == ["x", "You said: x"]


def wait_for_end(api: httpx.Client, path: str, seconds: float = 10) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        execution = dict(api.get(path).json())
        if execution["finished_at"]:
            return execution
        time.sleep(0.1)
    raise AssertionError(f"still {execution['status']}")
