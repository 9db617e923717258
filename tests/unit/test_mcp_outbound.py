"""No connection to an MCP server leads inside: the guard's tables on each address that a user may name."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from ai_agent.domain.mcp_servers import Authentication, AuthenticationType
from ai_agent.execution.mcp.credentials import ClientCredentials, FixedHeaders
from ai_agent.execution.mcp.failures import McpLost
from ai_agent.execution.mcp.health import McpHealth
from ai_agent.execution.mcp.http import HttpLink
from ai_agent.execution.mcp.pool import McpPool
from ai_agent.execution.mcp.protocol import Connection
from ai_agent.security.outbound import OutboundGuard
from tests.mcp_peer import Peer
from tests.unit.test_mcp_client import GUARD
from tests.unit.test_outbound import INSIDE, LOOPBACK_SPELLINGS, port_of, was_reached

Connect = Callable[[str, OutboundGuard], Awaitable[object]]


async def endpoint(url: str, guard: OutboundGuard) -> None:
    link = HttpLink(guard, url, FixedHeaders({}))
    try:
        await Connection(link).open()
    finally:
        await link.close()


async def token_url(url: str, guard: OutboundGuard) -> None:
    given = Authentication(AuthenticationType.OAUTH, token_url=url, client_id="us", client_secret="secret")
    await ClientCredentials(guard, given, "https://mcp.example").headers(renew=False)


async def health_check_url(url: str, guard: OutboundGuard) -> None:
    async def never(_: object) -> None:
        raise AssertionError

    await McpHealth(None, McpPool(never), guard, None)._ask_url(url)  # type: ignore[arg-type]  # not asked for


WAYS = [endpoint, token_url, health_check_url]


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    """Listens on every address of this machine."""
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        yield listener


def refused(connect: Connect, url: str, guard: OutboundGuard) -> None:
    async def play() -> None:
        async with asyncio.timeout(5):
            await connect(url, guard)

    with pytest.raises(McpLost):
        asyncio.run(play())


@pytest.mark.parametrize("connect", WAYS)
@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS + INSIDE)
def test_no_spelling_of_a_private_address_is_connected_to(canary: socket.socket, connect: Connect, host: str) -> None:
    refused(connect, f"http://{host}:{port_of(canary)}/mcp", OutboundGuard([]))
    assert not was_reached(canary)


@pytest.mark.parametrize("connect", WAYS)
def test_a_name_that_a_resolver_leads_inside_is_not_connected_to(canary: socket.socket, connect: Connect) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "127.0.0.1"]

    refused(connect, f"http://mcp.example:{port_of(canary)}/mcp", OutboundGuard([], resolve))
    assert not was_reached(canary)


def test_a_redirect_is_not_followed(canary: socket.socket) -> None:
    with Peer() as peer:
        peer.redirect = f"http://127.0.0.1:{port_of(canary)}/latest/meta-data"
        for connect in WAYS:
            refused(connect, peer.url, GUARD)
    assert not was_reached(canary)
