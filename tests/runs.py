"""Runs of agents, as tests start and watch them."""

import json
import time
import uuid
from typing import Any

import httpx

SSE = {"Accept": "text/event-stream"}
TERMINAL = {"execution.completed", "execution.failed", "execution.cancelled"}


def make_agent(api: httpx.Client, **more: Any) -> str:
    """An agent of the scripted model; `config` adds to its model's configuration."""
    config = {"provider": "openai", "model": "m", **more.pop("config", {})}
    body = {"name": f"agent-{uuid.uuid4().hex[:12]}", "model_config": config, **more}
    made = api.post("/agents", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def start(api: httpx.Client, agent_id: str, message: str = "x", **body: Any) -> dict[str, Any]:
    """A run in the background."""
    accepted = api.post(f"/agents/{agent_id}/executions", json={"message": message, **body})
    assert accepted.status_code == 202, accepted.text
    return dict(accepted.json())


def reaches(api: httpx.Client, execution_id: str, *statuses: str, seconds: float = 10) -> dict[str, Any]:
    """The execution when it has one of the statuses."""
    deadline = time.monotonic() + seconds
    while True:
        execution = dict(api.get(f"/executions/{execution_id}").json())
        if execution["status"] in statuses:
            return execution
        assert time.monotonic() < deadline, f"still {execution['status']}"
        time.sleep(0.05)


def ended(api: httpx.Client, execution_id: str, seconds: float = 10) -> dict[str, Any]:
    return reaches(api, execution_id, "completed", "failed", "cancelled", seconds=seconds)


def said(api: httpx.Client, execution_id: str, words: int) -> None:
    """Waits until so many words were streamed."""
    heard = ""
    with api.stream("GET", f"/executions/{execution_id}/events", headers=SSE) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                heard += event["data"]["text"] if event["type"] == "execution.token" else ""
                if len(heard.split()) >= words:
                    return
    raise AssertionError(f"only {heard!r} was said")


def events(api: httpx.Client, execution_id: str, seconds: float = 10) -> list[dict[str, Any]]:
    """All that was told of a run; of one that is over, to its end, which is told a moment after it is committed."""
    deadline = time.monotonic() + seconds
    while True:
        over = api.get(f"/executions/{execution_id}").json()["finished_at"]
        found = _told(api, execution_id)
        if not over or (found and found[-1]["type"] in TERMINAL):
            return found
        assert time.monotonic() < deadline, f"the end was not told, only {[event['type'] for event in found]}"
        time.sleep(0.02)


def tells(api: httpx.Client, execution_id: str, kind: str, seconds: float = 10) -> dict[str, Any]:
    """The last event of a run, when it is of that type."""
    deadline = time.monotonic() + seconds
    while True:
        found = _told(api, execution_id)
        if found and found[-1]["type"] == kind:
            return found[-1]
        assert time.monotonic() < deadline, f"only {[event['type'] for event in found]} was told"
        time.sleep(0.02)


def _told(api: httpx.Client, execution_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["seq"] if found else 0
        page = api.get(f"/executions/{execution_id}/events", params={"limit": 200, "after": str(after)}).json()
        found += page["items"]
        if not page["has_more"]:
            return found


def types(api: httpx.Client, execution_id: str) -> list[str]:
    return [event["type"] for event in events(api, execution_id)]


def messages(api: httpx.Client, session_id: str) -> list[tuple[str, str]]:
    """Who said what in a session, in order."""
    items = api.get(f"/sessions/{session_id}/messages", params={"limit": 200}).json()["items"]
    return [(message["role"], message["content"]) for message in items]
