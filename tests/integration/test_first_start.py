"""The first minute of a new user: one command, a key, a chat, and nothing lost at a restart."""

import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ai_agent.execution import local_model
from tests.conftest import Server
from tests.terminal import Terminal

needs_local_model = pytest.mark.skipif(not local_model.installed(), reason="the extra `local` is not installed")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as the README starts it: nothing is set but where its data lies."""
    server = Server(None, tmp_path_factory.mktemp("home"))
    yield server
    server.stop()


def printed_keys(server: Server) -> list[str]:
    return re.findall(r"sk-development-[0-9A-Za-z]{30}", server.log.read_text())


@pytest.fixture(scope="module")
def key(home: Server) -> str:
    assert len(printed_keys(home)) == 1
    return printed_keys(home)[0]


@pytest.fixture
def mine(home: Server, key: str) -> Iterator[httpx.Client]:
    with home.client(key) as client:
        yield client


def test_the_first_start_prints_where_it_listens_and_an_admin_key_once(home: Server, key: str) -> None:
    assert home.url in home.log.read_text()
    with home.client(key) as client:
        assert client.get("/sessions").status_code == 200
    with home.client(key="") as nobody:
        assert nobody.get("/sessions").status_code == 401


def test_what_is_secret_is_readable_by_its_owner_only(home: Server) -> None:
    for name in ("secret.key", "admin.key"):
        assert stat.S_IMODE((home.folder / name).stat().st_mode) == 0o600


@needs_local_model
def test_the_agent_assistant_is_there(mine: httpx.Client) -> None:
    agent = mine.get("/agents").json()["items"][0]
    assert (agent["name"], agent["model_config"]["provider"], agent["status"]) == ("assistant", "local", "idle")


@needs_local_model
def test_a_conversation_of_five_turns_with_the_local_model_survives_a_restart(home: Server, key: str) -> None:
    with home.client(key) as client:
        agent = client.get("/agents").json()["items"][0]["id"]
        client.patch(f"/agents/{agent}", json={"model_config": {"max_tokens": 24}}).raise_for_status()
        session, said = None, []
        for turn in ("My name is Ada.", "What is my name?", "Name a colour.", "Name another one."):
            body = {"message": turn} | ({"session_id": session} if session else {})
            answer = client.post(f"/agents/{agent}/execute", json=body)
            assert answer.status_code == 200, answer.text
            session = answer.json()["session_id"]
            said += [turn, answer.json()["content"]]
            assert answer.json()["content"].strip()
            assert answer.json()["usage"]["output_tokens"] > 0
    home.stop()
    home.start()
    assert printed_keys(home) == []
    with home.client(key) as client:
        body = {"message": "Thank you!", "session_id": session}
        with client.stream("POST", f"/agents/{agent}/execute/stream", json=body) as response:
            lines = [line for line in response.iter_lines() if line.startswith("event: ")]
        assert lines[-1] == "event: execution.completed"
        assert lines.count("event: execution.token") > 1
        messages = client.get(f"/sessions/{session}/messages").json()["items"]
        assert [message["content"] for message in messages][:9] == [*said, "Thank you!"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 5


@needs_local_model
def test_chat_finds_the_server_the_key_and_the_model_by_itself(home: Server) -> None:
    environment = home.environment | {"AI_AGENT_URL": home.url}
    with Terminal("chat", environment=environment, folder=home.folder) as terminal:
        terminal.expect("> ")
        terminal.type("Hello!")
        assert terminal.expect("> ", seconds=60).strip("> ")
        terminal.type("/quit")
        assert terminal.exit_code() == 0


def models(home: Server) -> list[int]:
    """The local model's processes of this server, by their parent."""
    children = Path(f"/proc/{home.process.pid}/task/{home.process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


@needs_local_model
def test_the_local_model_listens_on_loopback_only_and_wants_its_key(home: Server) -> None:
    (pid,) = models(home)
    sockets = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in sockets.splitlines() if f"pid={pid}," in line]
    address = line.split()[3]
    assert address.startswith("127.0.0.1:")
    refused = httpx.post(f"http://{address}/v1/chat/completions", json={"messages": []})
    assert refused.status_code == 401
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"SECRET" not in environment


@needs_local_model
def test_a_local_model_that_dies_comes_back(home: Server, mine: httpx.Client) -> None:
    (dead,) = models(home)
    os.kill(dead, 9)
    agent = mine.get("/agents").json()["items"][0]["id"]
    answer = mine.post(f"/agents/{agent}/execute", json={"message": "Still there?"})
    assert answer.status_code == 200, answer.text
    assert models(home) != [dead]


@needs_local_model
def test_a_run_that_is_cancelled_while_the_model_starts_leaves_one_model(home: Server, key: str) -> None:
    for dead in models(home):
        os.kill(dead, 9)
    home.stop()
    home.start()
    with home.client(key) as client:
        agent = client.get("/agents").json()["items"][0]["id"]
        for _ in range(4):
            headers = {"Prefer": "respond-async"}
            run = client.post(f"/agents/{agent}/execute", json={"message": "Hi"}, headers=headers).json()["id"]
            time.sleep(0.4)
            client.post(f"/executions/{run}/cancel").raise_for_status()
        answer = client.post(f"/agents/{agent}/execute", json={"message": "Hi"})
        assert answer.status_code == 200, answer.text
    assert len(models(home)) == 1


@needs_local_model
def test_the_local_model_ends_with_the_server_even_when_that_is_killed(home: Server) -> None:
    for how in (15, 9):
        (pid,) = models(home)
        home.stop(how)
        deadline = 100
        while Path(f"/proc/{pid}").exists() and deadline:
            subprocess.run(["sleep", "0.05"], check=True)
            deadline -= 1
        assert not Path(f"/proc/{pid}").exists()
        home.start()
        with home.client((home.folder / "admin.key").read_text()) as client:
            agent = client.get("/agents").json()["items"][0]["id"]
            client.post(f"/agents/{agent}/execute", json={"message": "Hi"}).raise_for_status()
