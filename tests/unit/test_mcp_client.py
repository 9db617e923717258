"""Our client of the Model Context Protocol against a server that is told what to do, in both kinds of revisions."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ai_agent.execution.mcp.credentials import FixedHeaders
from ai_agent.execution.mcp.failures import McpFailed, McpLost, McpRefused
from ai_agent.execution.mcp.http import HttpLink
from ai_agent.execution.mcp.protocol import Connection
from ai_agent.execution.mcp.results import output_of
from ai_agent.execution.run_state import Progress
from ai_agent.security.outbound import OutboundGuard
from ai_agent.settings import load_settings
from tests.mcp_peer import HANDSHAKE, STATELESS, Peer, text, tool

GUARD = OutboundGuard(load_settings({"AI_AGENT_OUTBOUND_ALLOW": "127.0.0.0/8"}).outbound_networks)


@pytest.fixture(params=[STATELESS, HANDSHAKE])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with Peer(request.param) as peer:
        yield peer


@asynccontextmanager
async def connected(peer: Peer, headers: dict[str, str] | None = None) -> AsyncIterator[Connection]:
    connection = Connection(HttpLink(GUARD, peer.url, FixedHeaders(headers or {})))
    try:
        async with asyncio.timeout(20):
            await connection.open()
            yield connection
    finally:
        await connection.close()


def call(peer: Peer, name: str, *told: Progress, schema: Any = None, **arguments: Any) -> tuple[Any, bool]:
    heard = list(told)

    async def play() -> dict[str, Any]:
        async with connected(peer) as connection:
            return await connection.call_tool(name, schema or {}, arguments, heard.append)

    return output_of(asyncio.run(play()))


def test_a_server_of_each_revision_is_agreed_with(peer: Peer) -> None:
    async def play() -> tuple[str, dict[str, Any]]:
        async with connected(peer) as connection:
            return connection.version, connection.capabilities

    assert asyncio.run(play()) == (peer.revisions[0], {"tools": {}})
    if peer.revisions[0] == HANDSHAKE:
        assert [one.method for one in peer.notifications] == ["notifications/initialized"]
        assert len(peer.closed_sessions) == 1


def test_of_a_server_that_speaks_both_the_newest_is_taken() -> None:
    async def play(peer: Peer) -> str:
        async with connected(peer) as connection:
            return connection.version

    with Peer() as peer:
        assert asyncio.run(play(peer)) == STATELESS


@pytest.mark.parametrize("answer", [{}, {"supportedVersions": "all"}, {"supportedVersions": [HANDSHAKE]}])
def test_a_server_that_answers_anything_to_anything_is_greeted_the_old_way(answer: dict[str, Any]) -> None:
    async def play(peer: Peer) -> str:
        async with connected(peer) as connection:
            return connection.version

    with Peer() as peer:
        peer.discovered = answer
        assert asyncio.run(play(peer)) == HANDSHAKE


def test_a_tool_is_called_and_its_text_comes_back(peer: Peer) -> None:
    assert call(peer, "echo", text="hällo\n") == ("hällo\n", False)
    (asked,) = peer.called("echo")
    assert asked.headers["mcp-protocol-version"] == peer.revisions[0]


def test_answers_may_come_as_json_or_as_events() -> None:
    for streams in (False, True):
        with Peer(streams=streams) as peer:
            assert call(peer, "echo", text="x") == ("x", False)


def test_a_list_of_pages_is_read_to_its_end(peer: Peer) -> None:
    peer.tools, peer.page = [tool(f"tool-{number}") for number in range(25)], 10

    async def play() -> list[Any]:
        async with connected(peer) as connection:
            return await connection.list_tools()

    assert asyncio.run(play()) == peer.tools


def test_a_list_without_an_end_is_given_up(peer: Peer) -> None:
    peer.tools, peer.page = [tool(f"tool-{number}") for number in range(2001)], 500

    async def play() -> None:
        async with connected(peer) as connection:
            await connection.list_tools()

    with pytest.raises(McpLost, match="more than 2000 tools"):
        asyncio.run(play())


def test_progress_is_heard_before_the_answer(peer: Peer) -> None:
    peer.script("echo", progress=[{"progress": 1, "total": 2, "message": "half"}, {"progress": 2}])
    heard: list[Progress] = []

    async def play() -> None:
        async with connected(peer) as connection:
            await connection.call_tool("echo", {}, {}, heard.append)

    asyncio.run(play())
    assert heard == [Progress(1, 2, "half"), Progress(2, None, None)]


def test_a_call_that_is_left_is_cancelled_at_the_server(peer: Peer) -> None:
    peer.script("echo", hang=True)

    async def play() -> None:
        async with connected(peer) as connection:
            calling = asyncio.create_task(connection.call_tool("echo", {}, {}, None))
            await asyncio.to_thread(peer.wait, lambda: peer.called("echo"))
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            await asyncio.to_thread(peer.wait, lambda: peer.left)

    asyncio.run(play())
    cancelled = [one.params for one in peer.notifications if one.method == "notifications/cancelled"]
    # In a stateless revision, that the stream was closed is the cancel.
    assert cancelled == ([] if peer.revisions[0] == STATELESS else [{"requestId": 3}])


def test_a_server_that_asks_something_is_answered_and_the_call_goes_on() -> None:
    with Peer(HANDSHAKE) as peer:
        for method, answer in (("ping", "result"), ("sampling/createMessage", "error")):
            peer.script("echo", asks=method)
            assert call(peer, "echo", text="x") == ("x", False)
            assert answer in peer.wait(lambda: peer.replies and peer.replies.pop())


def test_an_answer_that_goes_on_in_another_stream_is_read_there(peer: Peer) -> None:
    peer.script("echo", resumed=True)
    assert call(peer, "echo", text="late") == ("late", False)


def test_arguments_that_are_wanted_as_headers_are_sent_as_such() -> None:
    inner = {"type": "object", "properties": {"on": {"type": "boolean", "x-mcp-header": "On"}}}
    properties = {"region": {"type": "string", "x-mcp-header": "Region"}, "deep": inner, "plain": {"type": "string"}}
    with Peer(STATELESS) as peer:
        arguments = {"region": "Zürich", "deep": {"on": True}, "plain": "x"}
        call(peer, "echo", schema={"type": "object", "properties": properties}, **arguments)
        (asked,) = peer.called("echo")
    told = {name: value for name, value in asked.headers.items() if name.startswith("mcp-param-")}
    assert told == {"mcp-param-region": "=?base64?WsO8cmljaA==?=", "mcp-param-on": "true"}


# What is wrong with a server


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ({"error": {"code": -32602, "message": "Bad arguments"}}, McpRefused, "Bad arguments"),
        ({"garbage": b"<html>"}, McpLost, "no JSON object"),
        ({"garbage": b"[" * 100_000}, McpLost, "no JSON object"),
        ({"garbage": b'{"jsonrpc": "2.0", "id": 1}'}, McpLost, "none of the protocol"),
        ({"garbage": b'{"jsonrpc": "2.0", "id": 1, "result": 7}'}, McpLost, "none of the protocol"),
        ({"huge": 100 * 1024 * 1024}, McpLost, "too large"),
        ({"reset": True}, McpLost, "broke"),
        ({"status": 500}, McpLost, "answered 500"),
        ({"status": 302}, McpLost, "answered 302"),
        ({"status": 418}, McpRefused, "answered 418"),
    ],
)
def test_whatever_a_server_answers_is_told_in_words(
    peer: Peer, script: dict[str, Any], kind: type[McpFailed], words: str
) -> None:
    peer.script("echo", **script)
    with pytest.raises(kind, match=words):
        call(peer, "echo")


def test_more_input_that_is_wanted_is_refused() -> None:
    with Peer(STATELESS) as peer:
        peer.script("echo", result={"resultType": "input_required", "inputRequests": {}})
        with pytest.raises(McpRefused, match="wants more of its user"):
            call(peer, "echo")


def test_a_server_that_nobody_has_started_cannot_be_reached() -> None:
    with Peer() as peer:
        pass
    with pytest.raises(McpLost, match="cannot be reached") as caught:
        call(peer, "echo")
    assert caught.value.unsent


def test_a_server_that_forgot_the_session_says_so() -> None:
    async def play(peer: Peer) -> None:
        async with connected(peer) as connection:
            peer.sessions.clear()
            await connection.call_tool("echo", {}, {}, None)

    with Peer(HANDSHAKE) as peer, pytest.raises(McpLost, match="forgotten the session") as caught:
        asyncio.run(play(peer))
    assert caught.value.unsent


def test_refused_credentials_are_told(peer: Peer) -> None:
    peer.token = "right"
    with pytest.raises(McpLost, match="refused the credentials"):
        call(peer, "echo")


def test_nothing_is_left_behind_by_a_hundred_calls_that_end_badly() -> None:
    async def play(peer: Peer) -> None:
        async with connected(peer) as connection:
            for how in ({"reset": True}, {"garbage": b"x"}, {"hang": True}, {"error": {"code": 1, "message": "x"}}):
                peer.script("echo", **how)
                for _ in range(25):
                    with pytest.raises((McpFailed, TimeoutError)):
                        async with asyncio.timeout(0.02 if "hang" in how else 5):
                            await connection.call_tool("echo", {}, {}, None)
        gc.collect()
        assert len(asyncio.all_tasks()) == 1

    with Peer(HANDSHAKE) as peer:
        asyncio.run(play(peer))


# Results


@pytest.mark.parametrize(
    ("result", "output"),
    [
        (text("a"), "a"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb"),
        (text("{}", structuredContent={"sum": 3}), {"sum": 3}),
        ({"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}]}, "[image, image/png, 3 bytes]"),
        ({"content": [{"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}]}, "[audio, audio/wav, 3 bytes]"),
        ({"content": [{"type": "resource", "resource": {"uri": "a:b", "text": "in it"}}]}, "in it"),
        ({"content": [{"type": "resource", "resource": {"uri": "a:b", "blob": "AA"}}]}, "[resource a:b]"),
        ({"content": [{"type": "resource_link", "uri": "a:b", "name": "n"}]}, "[resource n: a:b]"),
        ({"content": [{"type": "hologram"}]}, "[content of type hologram]"),
        ({"content": []}, ""),
        ({"content": "nonsense"}, ""),
    ],
)
def test_a_result_is_told_as_a_model_can_read_it(result: dict[str, Any], output: Any) -> None:
    assert output_of(result) == (output, False)
    assert json.dumps(output)


def test_a_tool_that_says_it_failed_failed() -> None:
    assert output_of(text("No such city", isError=True)) == ("No such city", True)
    assert output_of({"content": [], "isError": True})[1]
