"""MCP servers in one process and on two nodes with a worker: health, its events, and tools in runs."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ai_agent.client import Event, RealtimeClient
from tests import mcp
from tests.conftest import KEY, Nodes
from tests.mcp_peer import Peer, text, tool
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, make_agent, messages, start

SETTINGS = {"AI_AGENT_OUTBOUND_ALLOW": "127.0.0.1/32"}


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        peer.tools = [tool(f"tool_{uuid.uuid4().hex[:6]}")]
        yield peer


def statuses(nodes: Nodes, count: int, server_id: str) -> list[dict[str, Any]]:
    """So many changes of a server, as its owner's queue has them."""

    async def listen() -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        async with asyncio.timeout(40), RealtimeClient(nodes.second.url, KEY) as client:
            async for notice in client.queue(types=["mcp_server.status"]):
                if isinstance(notice, Event):
                    client.acknowledge(notice)
                    data = msgspec.to_builtins(notice.data)
                    if data["mcp_server_id"] == server_id:
                        assert notice.lane == 2
                        heard.append(data)
                        if len(heard) == count:
                            return heard
        raise AssertionError(heard)

    return asyncio.run(listen())


def test_a_server_is_asked_in_the_background_and_its_changes_are_told(nodes: Nodes, peer: Peer) -> None:
    with nodes.first.client() as api:
        made = mcp.register(api, peer)
        seen = mcp.becomes(api, made, "connected")
        assert (seen["tool_count"], seen["last_error"]) == (1, None)
        assert seen["last_seen_at"] is not None
        peer.stop()
        # The next look would be in a minute; behind one that fails they are quicker.
        api.get(f"/mcp-servers/{made['id']}/health")
        mcp.becomes(api, made, "unreachable", 40)
        peer.start()
        api.patch(f"/mcp-servers/{made['id']}", json={"description": "look at once"})
        mcp.becomes(api, made, "connected")
        told = statuses(nodes, 4, made["id"])
        assert [one["status"] for one in told] == ["connected", "degraded", "unreachable", "connected"]
        assert [one["previous"] for one in told] == ["unknown", "connected", "degraded", "unreachable"]
        assert told[2]["last_error"] == "The server cannot be reached"
        api.delete(f"/mcp-servers/{made['id']}")


def test_of_all_processes_one_asks_a_server_at_a_time(nodes: Nodes, peer: Peer) -> None:
    with nodes.first.client() as api:
        made = mcp.register(api, peer)
        mcp.becomes(api, made, "connected")
        time.sleep(3)
        assert [one.method for one in peer.requests] == ["server/discover", "tools/list"]
        api.delete(f"/mcp-servers/{made['id']}")


def test_a_tool_that_was_synced_on_one_node_is_called_by_a_run_of_the_other(
    nodes: Nodes, model: ModelServer, peer: Peer
) -> None:
    with nodes.first.client() as api, nodes.second.client() as other:
        made = mcp.register(api, peer, authentication={"type": "bearer", "token": "shared-by-all-nodes"})
        (name,) = mcp.sync(api, made)["added"]
        peer.script(name, result=text("from the server"))
        model.script(Reply(calls=[Call(name, {"text": "x"})]), Reply("Thanks"))
        ran = ended(other, start(other, make_agent(other, tools=[name]))["id"], 30)
        assert messages(other, ran["session_id"])[-1] == ("assistant", "Thanks")
        (called,) = peer.called(name)
        assert called.headers["authorization"] == "Bearer shared-by-all-nodes"


def test_a_tool_that_needs_approval_is_called_when_it_has_it(nodes: Nodes, model: ModelServer, peer: Peer) -> None:
    with nodes.first.client() as api:
        made = mcp.register(api, peer)
        (name,) = mcp.sync(api, made)["added"]
        api.patch(f"/tools/{mcp.tools(api, made)[name]['id']}", json={"requires_approval": True})
        model.script(Reply(calls=[Call(name, {"text": "x"}, id="ask")]), Reply("Done"))
        run = start(api, make_agent(api, tools=[name]))
        deadline = time.monotonic() + 20
        while api.get(f"/executions/{run['id']}").json()["status"] != "waiting":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert peer.called(name) == []
        api.post(f"/executions/{run['id']}/approvals/ask", json={"decision": "approve"})
        assert ended(api, run["id"], 20)["status"] == "completed"
        assert len(peer.called(name)) == 1
