"""MCP servers, as tests register and sync them."""

import time
import uuid
from typing import Any

import httpx

from tests.mcp_peer import Peer


def body(peer_or_url: Peer | str, **more: Any) -> dict[str, Any]:
    url = peer_or_url if isinstance(peer_or_url, str) else peer_or_url.url
    return {"name": f"mcp-{uuid.uuid4().hex[:8]}", "transport": "streamable_http", "endpoint": url, **more}


def register(api: httpx.Client, peer_or_url: Peer | str, **more: Any) -> dict[str, Any]:
    made = api.post("/mcp-servers", json=body(peer_or_url, **more))
    assert made.status_code == 201, made.text
    return dict(made.json())


def sync(api: httpx.Client, server: dict[str, Any]) -> dict[str, Any]:
    synced = api.post(f"/mcp-servers/{server['id']}/sync")
    assert synced.status_code == 200, synced.text
    return dict(synced.json())


def tools(api: httpx.Client, server: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
    page = api.get(f"/mcp-servers/{server['id']}/tools", params={"limit": 100, **more}).json()
    return {tool["name"]: tool for tool in page["items"]}


def invoke(api: httpx.Client, tool: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    answer = api.post(f"/tools/{tool['id']}/invoke", json={"arguments": arguments})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def becomes(api: httpx.Client, server: dict[str, Any], status: str, seconds: float = 15) -> dict[str, Any]:
    """The server when it has the status."""
    deadline = time.monotonic() + seconds
    while True:
        found = dict(api.get(f"/mcp-servers/{server['id']}").json())
        if found["status"] == status:
            return found
        assert time.monotonic() < deadline, f"still {found['status']}"
        time.sleep(0.05)
