"""Our MCP client against servers that others have written: the official SDK's, and the reference servers."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from ai_agent.domain.fields import JsonObject, now, to_json
from ai_agent.domain.mcp_servers import Transport
from ai_agent.execution.mcp.commands import StdioCommand
from ai_agent.execution.mcp.links import Links
from ai_agent.execution.mcp.pool import Listing, McpPool
from ai_agent.execution.mcp.protocol import Connection
from ai_agent.execution.mcp.results import output_of
from ai_agent.execution.run_state import Progress
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_box import SecretBox
from ai_agent.security.secret_fields import NO_SECRETS, SecretFields
from ai_agent.services.mcp_sync import usable
from ai_agent.settings import load_settings
from ai_agent.storage.mcp_servers import Configuration
from tests.contract.node_tools import FOLDER, NODE, install, node
from tests.servers import free_port, wait_for_port

SDK = Path(__file__).parent / "mcp_sdk_server.py"
TIME = Path(sys.executable).parent / "mcp-server-time"


def configuration(transport: Transport, where: str) -> Configuration:
    http = transport is Transport.STREAMABLE_HTTP
    return Configuration(
        uuid4(),
        "tester",
        "server",
        transport,
        where if http else None,
        None if http else where,
        to_json({"type": "none"}),
        None,
        True,
        NO_SECRETS,
        now(),
    )


def links(commands: dict[str, StdioCommand]) -> Links:
    networks = load_settings({"AI_AGENT_OUTBOUND_ALLOW": "127.0.0.0/8"}).outbound_networks
    return Links(OutboundGuard(networks), SecretFields(SecretBox("s" * 32), "mcp_servers"), commands)


class Player:
    """One server, and a pool of its own for each scenario."""

    def __init__(self, asked: Configuration, commands: dict[str, StdioCommand]):
        self._asked = asked
        self._links = links(commands)
        self.heard: list[Progress] = []

    def play(self, scenario: Callable[["Player"], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            self.pool = McpPool(self._links.connect)
            try:
                async with asyncio.timeout(60):
                    return await scenario(self)
            finally:
                await self.pool.close()

        return asyncio.run(run())

    async def listing(self) -> Listing:
        return await self.pool.listing(self._asked)

    async def call(self, name: str, **arguments: Any) -> tuple[Any, bool]:
        listing = await self.listing()
        schema: JsonObject = next(one["inputSchema"] for one in listing.tools if one["name"] == name)
        result = await self.pool.call(self._asked, name, schema, arguments, again=False, tell=self.heard.append)
        return output_of(result)

    def says(self, name: str, **arguments: Any) -> tuple[Any, bool]:
        said: tuple[Any, bool] = self.play(lambda player: player.call(name, **arguments))
        return said


def child(*command: str | Path) -> Player:
    first, *arguments = map(str, command)
    return Player(configuration(Transport.STDIO, "it"), {"it": StdioCommand(first, arguments)})


@pytest.fixture(scope="module")
def sdk_url() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, str(SDK), str(port)])
    wait_for_port(port, process)
    yield f"http://127.0.0.1:{port}/mcp"
    process.terminate()
    process.wait(10)


@pytest.fixture(params=["2026-07-28", "2025-11-25", "stdio"])
def sdk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Player:
    if request.param == "stdio":
        return child(sys.executable, SDK)
    if request.param == "2025-11-25":  # The SDK's server speaks both, and is asked for the older one first.
        monkeypatch.setattr(Connection, "_discover", Connection._initialize)
    return Player(configuration(Transport.STREAMABLE_HTTP, request.getfixturevalue("sdk_url")), {})


def test_the_official_server_is_agreed_with_listed_and_called(sdk: Player, request: pytest.FixtureRequest) -> None:
    listing: Listing = sdk.play(lambda player: player.listing())
    over = request.node.callspec.params["sdk"]
    assert listing.version == ("2025-11-25" if over == "stdio" else over)
    good, failed = usable(listing.tools)
    assert (set(good), failed) == ({"add", "fail", "picture", "steps"}, [])
    assert sdk.says("add", a=2, b=40) == ({"result": 42}, False)
    said, is_error = sdk.says("fail")
    assert is_error
    assert "cannot be done" in said
    assert sdk.says("picture") == ("[image, image/png, 4 bytes]", False)


def test_the_official_server_tells_its_progress(sdk: Player) -> None:
    assert sdk.says("steps", count=3) == ({"result": "done"}, False)
    assert [(one.progress, one.total, one.message) for one in sdk.heard] == [(n, 3, f"step {n}") for n in (1, 2, 3)]


def test_the_time_server_tells_the_time() -> None:
    said, is_error = child(TIME, "--local-timezone", "UTC").says("get_current_time", timezone="Asia/Tokyo")
    assert not is_error
    assert "+09:00" in str(said)


def reference(name: str, *arguments: str) -> Player:
    install()
    return child(NODE, FOLDER / "node_modules" / "@modelcontextprotocol" / name / "dist" / "index.js", *arguments)


def test_the_server_with_everything_works() -> None:
    player = reference("server-everything", "stdio")
    listing: Listing = player.play(lambda player: player.listing())
    good, failed = usable(listing.tools)
    assert "echo" in good
    assert failed == []
    assert player.says("echo", message="hi") == ("Echo: hi", False)
    player.says("trigger-long-running-operation", duration=1, steps=4)
    assert [one.progress for one in player.heard] == [1, 2, 3, 4]


def test_the_memory_server_remembers_between_calls() -> None:
    async def scenario(player: Player) -> tuple[Any, bool]:
        entity = {"name": "Ada", "entityType": "person", "observations": ["writes programs"]}
        await player.call("create_entities", entities=[entity])
        found = await player.call("search_nodes", query="programs")
        await player.call("delete_entities", entityNames=["Ada"])
        return found

    said, is_error = reference("server-memory").play(scenario)
    assert not is_error
    assert "Ada" in str(said)


def test_the_file_server_shows_its_folder_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("in the note")
    player = reference("server-filesystem", str(tmp_path))
    said, is_error = player.says("read_text_file", path=str(tmp_path / "note.txt"))
    assert ("in the note" in str(said), is_error) == (True, False)
    _, is_error = player.says("read_text_file", path="/etc/hostname")
    assert is_error


@pytest.mark.parametrize("scenario", ["initialize", "tools_call", "sse-retry"])
def test_the_conformance_suite_passes_our_client(scenario: str) -> None:
    install()
    suite = FOLDER / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    client = f"{sys.executable} {Path(__file__).parent / 'mcp_conformance_client.py'}"
    ran = node(suite, "client", "--command", client, "--scenario", scenario)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 failed, 0 warnings" in ran.stdout + ran.stderr


def test_no_child_is_left_behind() -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    child(TIME).says("get_current_time", timezone="UTC")
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
