"""`ai-agent tail`, as people and scripts use it."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.conftest import KEY, Server
from tests.model_server import ModelServer, Reply
from tests.runs import ended, events, make_agent, start
from tests.servers import free_port
from tests.terminal import Terminal


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One is enough: what a terminal shows comes over a socket."""
    return f"sqlite:///{tmp_path_factory.mktemp('db')}/test.db"


@pytest.fixture(scope="module")
def channel(server: Server) -> str:
    """Of a run that has ended, and whose longest event is longer than a line."""
    with server.client() as api:
        execution = start(api, make_agent(api), "hello " * 100)
        ended(api, execution["id"])
    return f"execution:{execution['id']}"


def environment(server: Server, **more: str) -> dict[str, str]:
    return server.environment | {"AI_AGENT_URL": server.url, "AI_AGENT_API_KEY": KEY} | more


def tail(server: Server, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ai_agent", "tail", *arguments]
    return subprocess.run(
        command, env=environment(server, **more), capture_output=True, text=True, cwd=server.folder, timeout=40
    )


@contextmanager
def tailing(server: Server, *arguments: str) -> Iterator[Terminal]:
    with Terminal("tail", *arguments, environment=environment(server), folder=server.folder) as terminal:
        yield terminal


def test_a_script_reads_all_events_of_a_run_to_its_end(server: Server, api: httpx.Client, channel: str) -> None:
    done = tail(server, channel, "--from", "earliest", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = [{name: line[name] for name in ("t", "ch", "seq", "eid", "type", "ts")} for line in lines]
    expected = events(api, channel.partition(":")[2])
    assert told == [{name: event[name] for name in told[0]} for event in expected]


def test_it_goes_on_behind_a_position_that_it_has_printed(server: Server, channel: str) -> None:
    whole = tail(server, channel, "--from", "earliest").stdout.splitlines()
    printed = re.search(r" (\w+:2) execution.started ", whole[1])
    assert printed is not None, whole[1]
    assert tail(server, channel, "--since", printed[1]).stdout.splitlines() == whole[2:]


def test_only_the_types_that_are_wanted_are_printed_without_colours_where_nobody_sees_them(
    server: Server, channel: str
) -> None:
    done = tail(server, channel, "--from", "earliest", "--types", "execution.queued, execution.completed")
    assert re.fullmatch(r"\S+ \w+:1 execution.queued \{.*\}\n\S+ \w+:\d+ execution.completed \{.*\}\n", done.stdout)


def test_whoever_has_read_enough_may_leave(server: Server, channel: str) -> None:
    command = f"{sys.executable} -m ai_agent tail {channel} --from earliest --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(server), capture_output=True, text=True, cwd=server.folder, timeout=40
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_events_are_shown_as_they_happen_and_ctrl_c_ends_it(
    server: Server, api: httpx.Client, model: ModelServer
) -> None:
    model.script(Reply("word " * 1000, delay=0.05))
    execution_id = start(api, make_agent(api))["id"]
    with tailing(server, f"execution:{execution_id}") as terminal:
        terminal.expect("(live)")
        shown = terminal.expect('"text":"')
        assert " execution.token {" in shown
        terminal.interrupt()
        assert terminal.exit_code() == 0
    api.post(f"/executions/{execution_id}/cancel")


def test_it_goes_on_when_the_server_was_away(server: Server, api: httpx.Client, model: ModelServer) -> None:
    model.script(Reply("word " * 60, delay=0.05))
    execution_id = start(api, make_agent(api))["id"]
    with tailing(server, f"execution:{execution_id}", "--from", "earliest") as terminal:
        terminal.expect(":5 execution.token")
        server.stop(signal.SIGKILL)
        server.start(server.port)
        shown = terminal.expect(" execution.completed ", seconds=40)
        assert shown.count("(reconnecting)") == 1
        assert shown.count(" execution.restarted ") == 1
        assert terminal.exit_code() == 0


def test_a_line_fits_the_terminal(server: Server, channel: str) -> None:
    with tailing(server, channel, "--from", "earliest") as terminal:
        assert terminal.exit_code() == 0
        longest = max(terminal.expect("execution.completed").splitlines(), key=len)
    assert len(longest) == 200
    assert longest.endswith("…")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["nosuch:thing"],
        ["system", "--from", "yesterday"],
        ["system", "--since", "12"],
        ["system", "--since", "e:1", "--from", "now"],
        [],
    ],
)
def test_what_cannot_be_meant_is_a_fault_of_usage(server: Server, arguments: list[str]) -> None:
    done = tail(server, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("Error: .+\nHint: See: ai-agent tail --help\n", done.stderr)


def test_what_goes_wrong_is_one_line_and_a_hint(server: Server) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    away = tail(server, "system", AI_AGENT_URL=nobody)
    assert (away.returncode, away.stderr) == (
        1,
        f"Error: No answer from {nobody}\nHint: Start it with: ai-agent serve\n",
    )
    assert time.monotonic() - began < 20
    refused = tail(server, "system", AI_AGENT_API_KEY="sk-wrong")
    assert refused.returncode == 1
    assert re.fullmatch(r"Error: .+ \(4401\)\nHint: Set AI_AGENT_API_KEY.+\n", refused.stderr)
    hidden = tail(server, "execution:01900000-0000-7000-8000-000000000000")
    assert (hidden.returncode, hidden.stderr.count("\n")) == (1, 1)
    odd = tail(server, "system", AI_AGENT_URL="ftp://x")
    assert (odd.returncode, odd.stderr) == (1, "Error: ftp://x is no http or https URL\n")


def test_a_queue_is_printed_once_also_what_came_while_nobody_looked(server: Server, api: httpx.Client) -> None:
    for title in ("first", "second"):
        api.post("/notifications", json={"to": {"user_id": "admin"}, "title": title, "lane": 2}).raise_for_status()
    with tailing(server, "--user", "--types", "notification") as terminal:
        assert "first" in terminal.expect("second")
        api.post("/notifications", json={"to": {"user_id": "admin"}, "title": "third", "lane": 0}).raise_for_status()
        terminal.expect("urgent:")
        terminal.expect("third")
        terminal.interrupt()
        assert terminal.exit_code() == 0
    with tailing(server, "--user", "--types", "notification") as terminal:
        assert "first" not in terminal.expect("(live)")


@pytest.mark.parametrize("arguments", [(), ("--user", "system"), ("--user", "--from", "earliest")])
def test_a_channel_is_named_or_a_queue_is_meant(server: Server, arguments: tuple[str, ...]) -> None:
    refused = tail(server, *arguments)
    assert refused.returncode == 2
    assert "--user without --since and --from" in refused.stderr
