"""What a call of a tool adds beyond the peer's own time: alone in a process, and by `invoke` through a server.

python -m benchmarks.tools [--calls N]

The peer answers at once. Beside each call of the `http` tool stands a bare one of the same library to the same peer, on
a connection of its own, as the tool's is; they take turns, so that what else the machine does is in both.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from uuid import uuid4

import httpx
import httpx2
import uvloop

from ai_agent.domain.http_tools import header_field
from ai_agent.domain.tools import ToolKind, ToolSpec
from ai_agent.execution.builtin_tools import BuiltinTools
from ai_agent.execution.http_tools import HttpTools
from ai_agent.execution.tools import BUILTIN_SPECS, Call, Toolbox, perform
from ai_agent.security.api_keys import generate
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_box import SecretBox
from ai_agent.security.secret_fields import NO_SECRETS, SecretFields
from ai_agent.storage.engine import create_database
from benchmarks import seed
from benchmarks.applications import SECRET_KEY
from benchmarks.processes import Server, cleaned_up
from tests.servers import free_port

KEY = generate("benchmark")
BODY = b'{"temperature": 14, "sky": "clear"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SUMS = {"expression": "(2 + 3) * 4"}

Do = Callable[[], Awaitable[object]]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline() not in (b"\r\n", b""):
        pass
    writer.write(ANSWER)
    writer.close()


def inside(url: str, bare: httpx2.AsyncClient) -> dict[str, Do]:
    """The calls as a run makes them."""
    secrets, tool_id = SecretFields(SecretBox(SECRET_KEY), "tools"), uuid4()
    builtin = BuiltinTools(create_database("sqlite:///unused.db", pool_size=1, statement_timeout=5))
    http_tools = HttpTools(OutboundGuard([ip_network("127.0.0.0/8")]), secrets)
    toolbox = Toolbox({ToolKind.BUILTIN: builtin, ToolKind.HTTP: http_tools})
    sealed = secrets.seal(tool_id, {header_field("X-Key"): "k"}, NO_SECRETS)
    config = {"method": "GET", "url": f"{url}/weather?city={{city}}", "headers": {"X-Key": "***"}}
    spec = ToolSpec("weather", ToolKind.HTTP, schema=SCHEMA, id=tool_id, config=config, secrets=sealed)

    async def called(spec: ToolSpec, arguments: dict[str, object]) -> None:
        tool = toolbox.tool(spec)
        assert tool is not None
        assert tool.faults(arguments) is None
        outcome = await perform(tool, Call(arguments, "owner"))
        assert not outcome.is_error, outcome

    return {
        "bare": lambda: bare.get(f"{url}/weather?city=Kyoto"),
        "builtin": lambda: called(BUILTIN_SPECS["calculator"], dict(SUMS)),
        "http": lambda: called(spec, {"city": "Kyoto"}),
    }


async def invoked(api: httpx.AsyncClient, url: str, bare: httpx2.AsyncClient) -> dict[str, Do]:
    """The calls as a client of the server makes them, and a read of the same server."""
    builtin = await api.post("/tools", json={"name": "calculator", "kind": "builtin"})
    config = {"method": "GET", "url": f"{url}/weather?city={{city}}", "headers": {"X-Key": "k"}}
    tool = await api.post("/tools", json={"name": "weather", "kind": "http", "schema": SCHEMA, "config": config})
    addresses = {name: f"/tools/{one.json()['id']}" for name, one in (("builtin", builtin), ("http", tool))}

    async def invoke(name: str, arguments: dict[str, str]) -> None:
        answered = await api.post(f"{addresses[name]}/invoke", json={"arguments": arguments})
        assert not answered.json()["is_error"], answered.text

    return {
        "bare": lambda: bare.get(f"{url}/weather?city=Kyoto"),
        "read": lambda: api.get(addresses["builtin"]),
        "builtin": lambda: invoke("builtin", SUMS),
        "http": lambda: invoke("http", {"city": "Kyoto"}),
    }


async def times(ways: dict[str, Do], calls: int) -> dict[str, list[float]]:
    """Milliseconds of each call, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(calls + calls // 10):
        for name, do in ways.items():
            began = time.perf_counter()
            await do()
            if number >= calls // 10:  # The first ones import, compile and connect.
                taken[name].append((time.perf_counter() - began) * 1000)
    return taken


def report(title: str, taken: dict[str, list[float]], beside: dict[str, str | None]) -> None:
    print(f"\n{title:24}{'p50 ms':>10}{'p99 ms':>10}{'adds, p50':>12}")
    middle = {name: statistics.median(of) for name, of in taken.items()}
    for name, of in taken.items():
        p99 = statistics.quantiles(of, n=100)[98]
        base = beside.get(name, name)
        adds = "" if base == name else f"{middle[name] - (middle[base] if base else 0):12.2f}"
        print(f"{name:24}{middle[name]:10.2f}{p99:10.2f}{adds}")


async def main(start: Callable[[], Server], calls: int) -> None:
    peer = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{peer.sockets[0].getsockname()[1]}"
    alone = httpx2.Limits(max_keepalive_connections=0)
    async with peer, httpx2.AsyncClient(limits=alone, trust_env=False) as bare:
        report("in the process", await times(inside(url, bare), calls), {"builtin": None, "http": "bare"})
        server = start()
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}/api/v1", headers=headers) as api:
            taken = await times(await invoked(api, url, bare), calls)
        report("by invoke", taken, {"builtin": None, "http": "bare"})


def serving(folder: Path) -> Server:
    environment = seed.own_environment(
        AI_AGENT_DATA_DIR=str(folder),
        AI_AGENT_SECRET_KEY=SECRET_KEY,
        AI_AGENT_BOOTSTRAP_API_KEY=KEY,
        AI_AGENT_LOG_FORMAT="json",
        AI_AGENT_RATE_LIMIT_ENABLED="false",
        AI_AGENT_OUTBOUND_ALLOW="127.0.0.0/8",
    )
    port = free_port()
    command = [sys.executable, "-m", "ai_agent", "serve", "--port", str(port)]
    return Server(command, port=port, environment=environment, folder=folder, log=folder / "server.log")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    with cleaned_up() as (ends, folder):

        def started() -> Server:
            server = serving(folder)
            ends.callback(server.stop)
            return server

        uvloop.run(main(started, parser.parse_args().calls))
