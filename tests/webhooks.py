"""Runs with a `callback_url`, and what became of their deliveries."""

import time
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import Server
from tests.model_server import ModelServer

ALLOWED = "127.0.0.1/32"


def hooked_server(database_url: str, model: ModelServer, folder: Path) -> Server:
    """A server that may reach receivers on this machine, and is in a hurry."""
    return Server(
        database_url,
        folder,
        OPENAI_BASE_URL=f"{model.url}/v1",
        AI_AGENT_OUTBOUND_ALLOW=ALLOWED,
        AI_AGENT_WEBHOOK_RETRY_SECONDS="0.01",
    )


def agent(api: httpx.Client) -> str:
    body = {"name": f"a{time.monotonic_ns()}", "model_config": {"provider": "openai", "model": "m"}}
    return str(api.post("/agents", json=body).json()["id"])


def run(api: httpx.Client, url: str, agent_id: str | None = None) -> str:
    """The id of an execution that has ended."""
    answer = api.post(f"/agents/{agent_id or agent(api)}/execute", json={"message": "x", "callback_url": url})
    body = answer.json()
    return str(body["execution_id"] if answer.status_code == 200 else body["details"]["execution_id"])


def delivery(api: httpx.Client, execution_id: str) -> dict[str, Any]:
    (item,) = api.get(f"/executions/{execution_id}/deliveries").json()["items"]
    return dict(item)


def finished(api: httpx.Client, execution_id: str, seconds: float = 20) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while (item := delivery(api, execution_id))["status"] == "pending":
        assert time.monotonic() < deadline, item
        time.sleep(0.05)
    return item


def settled(api: httpx.Client, execution_id: str) -> dict[str, Any]:
    """The delivery when its first attempt is written down."""
    deadline = time.monotonic() + 10
    while (item := delivery(api, execution_id))["error"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return item
