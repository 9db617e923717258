"""What MCP servers cost: a call beyond the peer's own time, a sync of 500 tools, and dead servers beside reads.

python -m benchmarks.mcp [--calls N] [--seconds N]

The peer is the tests' own, in a process of its own. Beside each call stands a bare POST of the same message to the same
peer, on a connection of its own as the call's is; they take turns. Of dead servers half refuse connections and half
never answer them.
"""

import argparse
import asyncio
import multiprocessing
import socket
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import uvloop

from benchmarks.processes import Server, cleaned_up
from benchmarks.tools import KEY, report, serving, times
from tests import mcp
from tests.mcp_peer import HANDSHAKE, STATELESS, Peer, tool
from tests.servers import free_port

SCHEMA = {"type": "object", "properties": {f"field_{number}": {"type": "string"} for number in range(12)}}
SERVERS = 50
SETTLE_SECONDS = 15.0
"""The first checks are over then, and the next ones come when they are due."""


def _serve(revision: str, count: int, pipe: Any) -> None:
    with Peer(revision, streams=False) as peer:
        peer.tools = [tool("echo"), *(tool(f"bulk-{number}", SCHEMA) for number in range(count - 1))]
        pipe.send(peer.url)
        pipe.recv()


@contextmanager
def peer_process(revision: str, count: int = 1) -> Iterator[str]:
    """The address of a peer with so many tools."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(revision, count, theirs))
    process.start()
    yield ours.recv()
    ours.send("end")
    process.join()


def bare_call(http: httpx2.AsyncClient, url: str) -> Callable[[], Awaitable[object]]:
    """The same call of the tool as one POST, without session, pool or server."""
    meta = {"io.modelcontextprotocol/protocolVersion": STATELESS, "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"name": "echo", "arguments": {"text": "x"}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"mcp-protocol-version": STATELESS, "mcp-method": "tools/call", "mcp-name": "echo"}
    return lambda: http.post(url, json=message, headers=headers)


async def calls(server: Server, count: int) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    base = f"http://127.0.0.1:{server.port}/api/v1"
    alone = httpx2.Limits(max_keepalive_connections=0)
    with (
        peer_process(STATELESS) as newest,
        peer_process(HANDSHAKE) as older,
        httpx.Client(base_url=base, headers=headers) as api,
    ):
        rows = {}
        for revision, url in ((STATELESS, newest), (HANDSHAKE, older)):
            made = mcp.register(api, url)
            mcp.sync(api, made)
            (rows[revision],) = mcp.tools(api, made).values()
        async with (
            httpx2.AsyncClient(limits=alone, trust_env=False) as bare,
            httpx.AsyncClient(base_url=base, headers=headers) as http,
        ):

            def invoke(revision: str) -> Callable[[], Awaitable[object]]:
                return lambda: http.post(f"/tools/{rows[revision]['id']}/invoke", json={"arguments": {"text": "x"}})

            ways = {"bare": bare_call(bare, newest), STATELESS: invoke(STATELESS), HANDSHAKE: invoke(HANDSHAKE)}
            report("by invoke", await times(ways, count), {STATELESS: "bare", HANDSHAKE: "bare"})


def syncs(server: Server) -> None:
    base, headers = f"http://127.0.0.1:{server.port}/api/v1", {"Authorization": f"Bearer {KEY}"}
    with peer_process(STATELESS, 500) as url, httpx.Client(base_url=base, headers=headers, timeout=30) as api:
        made = mcp.register(api, url)
        print(f"\n{'sync of 500 tools':24}{'ms':>10}")
        for what in ("all new", "none changed"):
            began = time.perf_counter()
            mcp.sync(api, made)
            print(f"{what:24}{(time.perf_counter() - began) * 1000:10.0f}")
        api.delete(f"/mcp-servers/{made['id']}")


async def reads(servers: dict[str, Server], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each GET of the sessions, of one server after the other, so that both meet the same noise."""
    taken: dict[str, list[float]] = {name: [] for name in servers}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}/api/v1", headers=headers)
            )
            for name, server in servers.items()
        }
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for name, http in clients.items():
                began = time.perf_counter()
                (await http.get("/sessions")).raise_for_status()
                taken[name].append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.002)
    return taken


async def beside_dead(start: Callable[[str], Server], seconds: float) -> None:
    """Two servers side by side, one of them with MCP servers."""
    with ExitStack() as ends:
        url = ends.enter_context(peer_process(STATELESS))
        silent = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
        servers = {"no MCP servers": start("without"), "50, of which 25 dead": start("with")}
        dead = [f"http://127.0.0.1:{free_port()}/mcp", f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"]
        for name, server in servers.items():
            with httpx.Client(
                base_url=f"http://127.0.0.1:{server.port}/api/v1", headers={"Authorization": f"Bearer {KEY}"}
            ) as api:
                api.post("/sessions", json={})
                for number in range(SERVERS // 2 if "dead" in name else 0):
                    mcp.register(api, url)
                    mcp.register(api, dead[number % 2])
        await reads(servers, SETTLE_SECONDS)
        ratios = []
        print(f"\n{'GET /sessions':24}{'p50 ms':>10}{'p99 ms':>10}")
        for _ in range(3):
            taken = await reads(servers, seconds)
            for name, of in taken.items():
                print(f"{name:24}{statistics.median(of):10.2f}{p99(of):10.2f}")
            without, beside = map(p99, taken.values())
            ratios.append(beside / without)
        print(f"p99 with / without: {', '.join(f'{one:.2f}' for one in ratios)}")


def p99(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    with cleaned_up() as (ends, folder):

        def started(name: str) -> Server:
            own = Path(folder) / name
            own.mkdir()
            server = serving(own)
            ends.callback(server.stop)
            return server

        first = started("first")
        uvloop.run(calls(first, given.calls))
        syncs(first)
        first.stop()
        uvloop.run(beside_dead(started, given.seconds))
