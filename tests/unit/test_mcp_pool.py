"""The connections to MCP servers: shared by all who call, and what happens to one of them is nothing to the others."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from uuid import uuid4

import pytest

from ai_agent.domain.fields import now, to_json
from ai_agent.domain.mcp_servers import Transport
from ai_agent.execution.mcp import pool
from ai_agent.execution.mcp.credentials import FixedHeaders
from ai_agent.execution.mcp.failures import McpLost
from ai_agent.execution.mcp.http import HttpLink
from ai_agent.execution.mcp.pool import McpPool
from ai_agent.execution.mcp.protocol import Link
from ai_agent.execution.mcp.results import output_of
from ai_agent.security.secret_fields import NO_SECRETS
from ai_agent.storage.mcp_servers import Configuration
from tests.mcp_peer import HANDSHAKE, Peer, tool
from tests.unit.test_mcp_client import GUARD


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer(HANDSHAKE) as peer:
        peer.tools = [tool("good"), tool("bad")]
        yield peer


def configuration(peer: Peer) -> Configuration:
    told = (Transport.STREAMABLE_HTTP, peer.url, None, to_json({"type": "none"}), None, True, NO_SECRETS, now())
    return Configuration(uuid4(), "tester", "server", *told)


async def connect(asked: Configuration) -> Link:
    return HttpLink(GUARD, asked.endpoint or "", FixedHeaders({}))


def play(scenario: Callable[[McpPool], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        kept = McpPool(connect)
        async with asyncio.timeout(20):
            try:
                await scenario(kept)
            finally:
                await kept.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


async def call(kept: McpPool, asked: Configuration, name: str, text: str = "x") -> Any:
    result = await kept.call(asked, name, {}, {"text": text}, again=False, tell=lambda _: None)
    return output_of(result)[0]


def greetings(peer: Peer) -> int:
    return sum(request.method == "initialize" for request in peer.requests)


def test_all_who_call_at_once_share_one_connection(peer: Peer) -> None:
    asked = configuration(peer)

    async def scenario(kept: McpPool) -> None:
        said = await asyncio.gather(*(call(kept, asked, "good", str(number)) for number in range(10)))
        assert said == [str(number) for number in range(10)]
        assert greetings(peer) == 1

    play(scenario)
    assert len(peer.closed_sessions) == 1


@pytest.mark.parametrize("how", ["lost", "listed", "forgotten"])
def test_a_call_goes_on_when_the_connection_is_given_up_by_others(peer: Peer, how: str) -> None:
    asked = configuration(peer)
    peer.script("good", hang=True)
    peer.script("bad", garbage=b"x")

    async def scenario(kept: McpPool) -> None:
        calling = asyncio.create_task(call(kept, asked, "good", "still here"))
        await asyncio.to_thread(peer.wait, lambda: peer.called("good"))
        if how == "lost":
            with pytest.raises(McpLost):
                await call(kept, asked, "bad")
        elif how == "forgotten":
            await kept.forget(asked.id)
        else:
            await kept.listing(asked, keep=False)
        await asyncio.sleep(0.2)
        peer.go_on.set()
        assert await calling == "still here"

    play(scenario)


def test_who_is_cancelled_while_it_is_opened_takes_nothing_from_the_others(peer: Peer) -> None:
    asked = configuration(peer)
    peer.greeting_hangs = True

    async def scenario(kept: McpPool) -> None:
        first, second = (asyncio.create_task(call(kept, asked, "good", name)) for name in ("first", "second"))
        await asyncio.to_thread(peer.wait, lambda: peer.requests)
        first.cancel()
        await asyncio.wait([first])
        peer.go_on.set()
        assert await second == "second"
        assert first.cancelled()

    play(scenario)


def test_another_configuration_is_another_connection(peer: Peer) -> None:
    asked = configuration(peer)
    changed = configuration(peer)

    async def scenario(kept: McpPool) -> None:
        await call(kept, asked, "good")
        fields = {name: getattr(changed, name) for name in Configuration.__struct_fields__}
        await call(kept, Configuration(**fields | {"id": asked.id}), "good")
        assert greetings(peer) == 2

    play(scenario)
    assert len(peer.closed_sessions) == 2


def test_what_nobody_uses_is_closed_and_opened_again(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.2)
    asked = configuration(peer)

    async def scenario(kept: McpPool) -> None:
        await call(kept, asked, "good")
        await asyncio.to_thread(peer.wait, lambda: peer.closed_sessions)
        assert await call(kept, asked, "good", "again") == "again"
        assert greetings(peer) == 2

    play(scenario)
