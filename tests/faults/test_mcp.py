"""MCP servers that are absent, die, hang, lie, or do not want to end.

What holds whatever they do: the API answers on, other servers' tools work on, a run ends with a message, and nothing is
left behind: connections, processes, memory.
"""

import json
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests import mcp
from tests.conftest import Nodes, Server
from tests.mcp_peer import HANDSHAKE, Peer, text, tool
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, make_agent, messages, reaches, start

FOLDER = Path(tempfile.mkdtemp(prefix="mcp-", dir="/tmp"))
COMMANDS, IDS = FOLDER / "commands.json", FOLDER / "ids"
CHILD = Path(__file__).parents[1] / "mcp_child.py"
SETTINGS = {"AI_AGENT_OUTBOUND_ALLOW": "127.0.0.1/32", "AI_AGENT_MCP_STDIO_COMMANDS": str(COMMANDS)}
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module", autouse=True)
def commands() -> None:
    COMMANDS.write_text(json.dumps({"child": {"command": sys.executable, "arguments": [str(CHILD), str(IDS)]}}))


@pytest.fixture
def api(commands: None, nodes: Nodes, model: ModelServer) -> Iterator[httpx.Client]:
    with nodes.first.client() as api:
        yield api
    model._script.clear()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer(HANDSHAKE) as peer:
        peer.tools = [tool(f"tool_{uuid.uuid4().hex[:6]}")]
        yield peer


@pytest.fixture
def good() -> Iterator[Peer]:
    """Another server, whose tool works whatever happens to the first."""
    with Peer() as peer:
        peer.tools = [tool(f"good_{uuid.uuid4().hex[:6]}")]
        yield peer


def synced(api: httpx.Client, peer: Peer) -> tuple[dict[str, Any], str]:
    """A server, and the name of its tool."""
    made = mcp.register(api, peer)
    (name,) = mcp.sync(api, made)["added"]
    return made, name


def run_both(api: httpx.Client, model: ModelServer, bad: str, good: str) -> str:
    """A run that calls a bad tool and a good one in one step."""
    calls = [Call(bad, {"text": "x"}, id="bad"), Call(good, {"text": "fine"}, id="good")]
    model.script(Reply(calls=calls), Reply("I did what I could"))
    return str(start(api, make_agent(api, tools=[bad, good]))["id"])


def outcomes(api: httpx.Client, run: str) -> dict[str, tuple[str, Any]]:
    calls = api.get(f"/executions/{run}/tool-calls").json()["items"]
    return {call["call_id"]: (call["status"], call["output"]) for call in calls}


def assert_went_on(api: httpx.Client, run: str, words: str) -> None:
    """The run ended with a message, the good tool worked, and the bad one failed in words."""
    execution = ended(api, run, 30)
    assert execution["status"] == "completed", execution["error"]
    assert messages(api, execution["session_id"])[-1] == ("assistant", "I did what I could")
    calls = outcomes(api, run)
    assert calls["good"] == ("completed", "fine")
    assert calls["bad"][0] == "failed"
    assert words in calls["bad"][1]
    assert api.get("/sessions").status_code == 200


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"reset": True}, "The connection to the server broke"),
        ({"garbage": b"<html>"}, "no JSON object"),
        ({"huge": 100 * MEGABYTE}, "too large"),
        ({"status": 500}, "answered 500"),
        ({"error": {"code": -32602, "message": "Invalid arguments: city is required"}}, "city is required"),
        ({"result": text("No such city", isError=True)}, "No such city"),
    ],
)
def test_whatever_a_server_answers_the_run_goes_on(
    api: httpx.Client, model: ModelServer, peer: Peer, good: Peer, script: dict[str, Any], words: str
) -> None:
    _, bad = synced(api, peer)
    _, works = synced(api, good)
    peer.script(bad, **script)
    assert_went_on(api, run_both(api, model, bad, works), words)


def test_a_server_that_is_gone_fails_its_tools_and_no_others(
    api: httpx.Client, model: ModelServer, peer: Peer, good: Peer
) -> None:
    made, bad = synced(api, peer)
    _, works = synced(api, good)
    peer.stop()
    assert_went_on(api, run_both(api, model, bad, works), "The server cannot be reached")
    for path in (f"/mcp-servers/{made['id']}/health", f"/mcp-servers/{made['id']}/tools", f"/mcp-servers/{made['id']}"):
        assert api.get(path).status_code == 200
    refused = api.post(f"/mcp-servers/{made['id']}/sync")
    assert (refused.status_code, refused.json()["code"]) == (503, "external_service_error")
    assert refused.json()["details"]["service_type"] == "mcp_server"
    peer.start()
    assert mcp.sync(api, made)["unchanged"] == 1


def test_a_server_that_is_killed_in_a_call_is_told_of(
    api: httpx.Client, model: ModelServer, peer: Peer, good: Peer
) -> None:
    _, bad = synced(api, peer)
    _, works = synced(api, good)
    peer.script(bad, hang=True)
    run = run_both(api, model, bad, works)
    peer.wait(lambda: peer.called(bad), 20)
    peer.stop()
    assert_went_on(api, run, "The server's answer ended too early")
    assert len(peer.called(bad)) == 1


def test_what_may_be_made_again_is_made_again(api: httpx.Client, peer: Peer) -> None:
    peer.tools[0]["annotations"] = {"readOnlyHint": True}
    made, name = synced(api, peer)
    peer.script(name, reset=True, times=1)
    assert mcp.invoke(api, mcp.tools(api, made)[name], text="again")["output"] == "again"
    assert len(peer.called(name)) == 2


def test_a_silent_restart_is_noticed_by_nobody(api: httpx.Client, peer: Peer) -> None:
    made, name = synced(api, peer)
    row = mcp.tools(api, made)[name]
    for number in range(3):
        peer.restart()
        said = mcp.invoke(api, row, text=f"call {number}")
        assert (said["output"], said["is_error"]) == (f"call {number}", False)


def test_a_call_that_hangs_keeps_nobody_waiting_and_is_cancelled(
    api: httpx.Client, model: ModelServer, peer: Peer, good: Peer
) -> None:
    _, bad = synced(api, peer)
    other, works = synced(api, good)
    peer.script(bad, hang=True)
    run = run_both(api, model, bad, works)
    peer.wait(lambda: peer.called(bad), 20)
    assert mcp.invoke(api, mcp.tools(api, other)[works], text="on")["output"] == "on"
    asked = time.monotonic()
    assert api.post(f"/executions/{run}/cancel").status_code in (200, 202)
    assert reaches(api, run, "cancelled")["status"] == "cancelled"
    assert time.monotonic() - asked < 3
    peer.wait(lambda: peer.left)
    cancelled = peer.wait(lambda: [one for one in peer.notifications if one.method == "notifications/cancelled"])
    assert len(cancelled) == 1


def test_a_server_that_hangs_when_it_is_greeted_is_given_up(api: httpx.Client, peer: Peer) -> None:
    peer.greeting_hangs = True
    begun = time.monotonic()
    tried = api.post("/mcp-servers/test", json=mcp.body(peer)).json()
    assert (tried["ok"], tried["error"]) == (False, "The server did not greet within 5 s")
    assert time.monotonic() - begun < 7


def test_a_list_that_is_garbage_is_told_of(api: httpx.Client, peer: Peer) -> None:
    made = mcp.register(api, peer)
    for garbage in (b"<html>", b'{"result": 1}', b"[" * 1_000_000, b"\xff\xfe", b'{"tools": ' * 1000):
        peer.list_garbage = garbage
        refused = api.post(f"/mcp-servers/{made['id']}/sync")
        assert (refused.status_code, refused.json()["code"]) == (503, "external_service_error")
    seen = api.get(f"/mcp-servers/{made['id']}").json()
    assert seen["last_error"] == "The server's answer is no JSON object"


def test_of_five_hundred_tools_those_that_can_be_used_come(api: httpx.Client, peer: Peer) -> None:
    mark = uuid.uuid4().hex[:6]
    peer.page = 100
    peer.tools = [tool(f"t_{mark}_{number}", {"type": "string"} if number % 7 == 0 else None) for number in range(500)]
    made = mcp.register(api, peer)
    report = mcp.sync(api, made)
    assert (len(report["added"]), len(report["failed"])) == (428, 72)
    assert api.delete(f"/mcp-servers/{made['id']}").status_code == 204


def test_a_tool_that_has_changed_since_the_sync_fails_in_words(
    api: httpx.Client, model: ModelServer, peer: Peer, good: Peer
) -> None:
    made, bad = synced(api, peer)
    _, works = synced(api, good)
    peer.tools = [tool("another")]
    assert_went_on(api, run_both(api, model, bad, works), f"Unknown tool: {bad}")
    report = mcp.sync(api, made)
    assert (report["removed"], report["added"]) == ([bad], ["another"])
    api.delete(f"/mcp-servers/{made['id']}")


def test_a_server_that_fails_again_and_again_is_left_alone(api: httpx.Client, peer: Peer) -> None:
    made, name = synced(api, peer)
    row = mcp.tools(api, made)[name]
    peer.script(name, reset=True)
    said = [mcp.invoke(api, row)["output"] for _ in range(7)]
    assert "broke" in said[4]
    assert "again and again" in said[5]
    assert len(peer.called(name)) == 5


# Children


def ids() -> list[int]:
    return [int(one) for one in IDS.read_text().split()] if IDS.exists() else []


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # Also between the two looks.
        return False


def gone(pids: list[int], seconds: float = 8) -> None:
    deadline = time.monotonic() + seconds
    while left := alive(pids):
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.05)


@pytest.fixture
def child(api: httpx.Client) -> Iterator[dict[str, Any]]:
    made = mcp.register(api, "", transport="stdio", endpoint=None, command="child")
    mcp.sync(api, made)
    yield made
    api.delete(f"/mcp-servers/{made['id']}")
    gone(ids())


def test_a_child_that_forks_and_ignores_signals_goes_with_its_server(api: httpx.Client, child: dict[str, Any]) -> None:
    row = mcp.tools(api, child)["child_echo"]
    assert mcp.invoke(api, row, text="hi")["output"] == "hi"
    assert len(alive(ids())) >= 2
    assert api.delete(f"/mcp-servers/{child['id']}").status_code == 204
    gone(ids())


@pytest.mark.parametrize(
    ("name", "words"), [("child_die", "The server's process has ended"), ("child_flood", "too large")]
)
def test_a_child_that_dies_or_floods_is_made_anew(
    api: httpx.Client, child: dict[str, Any], name: str, words: str
) -> None:
    rows = mcp.tools(api, child)
    before = ids()
    said = mcp.invoke(api, rows[name])
    assert said["is_error"]
    assert words in said["output"]
    gone(before)
    assert mcp.invoke(api, rows["child_echo"], text="again")["output"] == "again"


def test_what_is_no_message_is_passed_over(api: httpx.Client, child: dict[str, Any]) -> None:
    assert mcp.invoke(api, mcp.tools(api, child)["child_babble"], text="through")["output"] == "through"


def test_a_child_that_is_killed_between_calls_is_made_anew(api: httpx.Client, child: dict[str, Any]) -> None:
    row = mcp.tools(api, child)["child_echo"]
    mcp.invoke(api, row, text="x")
    before = alive(ids())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    gone(before)
    time.sleep(0.2)
    assert mcp.invoke(api, row, text="again")["output"] == "again"


def test_a_server_that_stops_leaves_no_child_behind(model: ModelServer, tmp_path: Path) -> None:
    server = Server(f"sqlite:///{tmp_path}/test.db", tmp_path, OPENAI_BASE_URL=f"{model.url}/v1", **SETTINGS)
    try:
        with server.client() as api:
            made = mcp.register(api, "", transport="stdio", endpoint=None, command="child")
            mcp.sync(api, made)
        assert len(alive(ids())) >= 2
    finally:
        assert server.stop() == 0
    gone(ids(), 1)


# Nothing is left behind


def settled(measure: Callable[[], int], most: int, seconds: float = 10) -> int:
    deadline = time.monotonic() + seconds
    while (found := measure()) > most and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def test_nothing_is_left_behind(nodes: Nodes, api: httpx.Client, peer: Peer, child: dict[str, Any]) -> None:
    made, name = synced(api, peer)
    row, children = mcp.tools(api, made)[name], mcp.tools(api, child)
    process = psutil.Process(nodes.first.process.pid)

    def break_all() -> None:
        for script in ({"garbage": b"x"}, {"huge": 30 * MEGABYTE}, {"error": {"code": 1, "message": "x"}}, {}):
            peer.script(name, **script)
            mcp.invoke(api, row, text="x")
        peer.restart()
        mcp.invoke(api, row, text="x")
        mcp.invoke(api, children["child_die"])
        mcp.invoke(api, children["child_echo"], text="x")

    break_all()
    files, processes, memory = process.num_fds(), len(process.children()), process.memory_info().rss
    for _ in range(6):
        break_all()
    assert settled(process.num_fds, files + 2) <= files + 2
    assert settled(lambda: len(process.children()), processes) <= processes
    assert process.memory_info().rss - memory < 40 * MEGABYTE
