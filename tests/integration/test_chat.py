"""`ai-agent chat` in a terminal."""

import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import KEY, Server
from tests.model_server import Call, ModelServer, Reply
from tests.terminal import Terminal


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One is enough: what a terminal shows comes over HTTP."""
    return f"sqlite:///{tmp_path_factory.mktemp('db')}/test.db"


@pytest.fixture(scope="module")
def agent_name(server: Server) -> str:
    with server.client() as api:
        body = {"name": "friend", "model_config": {"provider": "openai", "model": "m"}}
        api.post("/agents", json=body).raise_for_status()
    return "friend"


@pytest.fixture
def chat(server: Server, agent_name: str) -> Iterator[Terminal]:
    environment = server.environment | {"AI_AGENT_URL": server.url, "AI_AGENT_API_KEY": KEY}
    with Terminal("chat", agent_name, environment=environment, folder=server.folder) as terminal:
        terminal.expect("> ")
        yield terminal


def messages_of_newest_session(api: httpx.Client) -> list[str]:
    session = api.get("/sessions", params={"limit": 1}).json()["items"][0]
    return [message["content"] for message in api.get(f"/sessions/{session['id']}/messages").json()["items"]]


def test_tokens_are_shown_as_they_come(chat: Terminal, model: ModelServer) -> None:
    model.script(Reply("one two three four five", delay=0.3))
    chat.type("hello")
    chat.expect("one two")
    assert "five" not in chat.screen
    chat.expect("five")
    chat.expect("> ")


def test_the_next_line_goes_on_with_the_conversation_and_new_begins_another(
    chat: Terminal, model: ModelServer, api: httpx.Client
) -> None:
    chat.type("my name is Ada")
    chat.expect("You said: my name is Ada")
    chat.type("again")
    chat.expect("You said: again")
    assert "my name is Ada" in str(model.requests[-1]["messages"])
    chat.type("/new")
    chat.expect("A new conversation.")
    chat.type("third")
    chat.expect("You said: third")
    chat.expect("> ")
    assert "my name is Ada" not in str(model.requests[-1]["messages"])
    assert messages_of_newest_session(api) == ["third", "You said: third"]


def test_history_shows_what_was_said_also_what_looks_like_markup(chat: Terminal) -> None:
    chat.type("[bold]loud[/]")
    chat.expect("You said: [bold]loud[/]")
    chat.expect("> ")
    chat.type("/history")
    chat.expect("user: [bold]loud[/]")
    chat.expect("assistant: You said: [bold]loud[/]")


def test_ctrl_c_cancels_the_answer_and_not_the_chat(chat: Terminal, model: ModelServer, api: httpx.Client) -> None:
    model.script(Reply("word " * 200, delay=0.05))
    chat.type("tell me everything")
    chat.expect("word word word")
    chat.interrupt()
    chat.expect("(stopped)")
    assert messages_of_newest_session(api)[-1].startswith("word word")
    chat.type("still there?")
    chat.expect("You said: still there?")


def test_ctrl_c_at_the_prompt_only_clears_the_line(chat: Terminal) -> None:
    time.sleep(0.3)  # Python's own readline loses a signal that comes together with its prompt.
    chat.interrupt()
    chat.expect("> ")
    chat.type("hello")
    chat.expect("You said: hello")


def test_quit_and_end_of_input_leave_and_say_how_to_go_on(
    chat: Terminal, server: Server, agent_name: str, api: httpx.Client
) -> None:
    chat.type("remember me")
    chat.expect("You said: remember me")
    chat.expect("> ")
    chat.end_of_input()
    chat.expect("ai-agent chat --session ")
    assert chat.exit_code() == 0
    session = api.get("/sessions", params={"limit": 1}).json()["items"][0]["id"]
    environment = server.environment | {"AI_AGENT_URL": server.url, "AI_AGENT_API_KEY": KEY}
    arguments = ["chat", agent_name, "--session", session]
    with Terminal(*arguments, environment=environment, folder=server.folder) as later:
        later.type("/history")
        later.expect("user: remember me")
        later.type("/quit")
        assert later.exit_code() == 0


def test_a_failed_answer_is_told_and_the_chat_goes_on(chat: Terminal, model: ModelServer) -> None:
    model.script(Reply(status=400))
    chat.type("fail")
    chat.expect("The model provider answered 400")
    chat.type("and now?")
    chat.expect("You said: and now?")


def test_what_a_model_says_is_shown_and_not_obeyed(chat: Terminal, model: ModelServer) -> None:
    model.script(Reply("at 12:100:30 \x1b]0;mine\x07 :smile:"))
    chat.type("show me")
    chat.expect("at 12:100:30 ]0;mine :smile:")


def test_a_failure_begins_a_line_of_its_own(chat: Terminal, model: ModelServer) -> None:
    model.script(Reply("one two three", delay=0.06, reset_after=2))
    chat.type("fail late")
    chat.expect("one two\nThe ")


def test_a_session_that_is_not_there_is_refused_at_once(server: Server, agent_name: str) -> None:
    environment = server.environment | {"AI_AGENT_URL": server.url, "AI_AGENT_API_KEY": KEY}
    for session in ("01900000-0000-7000-8000-000000000000", "nonsense"):
        arguments = ["chat", agent_name, "--session", session]
        with Terminal(*arguments, environment=environment, folder=server.folder) as terminal:
            terminal.expect("Error: ")
            assert terminal.exit_code() == 1


def test_an_unknown_command_is_explained(chat: Terminal) -> None:
    chat.type("/nope")
    chat.expect("No such command")
    chat.expect("/quit leaves")


def test_an_answer_goes_on_after_a_restart_of_the_server(chat: Terminal, server: Server, model: ModelServer) -> None:
    model.script(Reply("slow " * 100, delay=0.05))
    chat.type("hello")
    chat.expect("slow slow")
    server.stop(signal.SIGKILL)
    time.sleep(0.5)
    server.start(server.port)
    assert chat.expect("(starting over)", seconds=30).count("(reconnecting)") == 1
    chat.expect("You said: hello")
    chat.type("/quit")
    assert chat.exit_code() == 0


def test_a_tool_runs_when_somebody_in_the_terminal_allows_it(
    chat: Terminal, server: Server, model: ModelServer, api: httpx.Client
) -> None:
    body = {"name": "calculator", "kind": "builtin", "requires_approval": True}
    api.post("/tools", json=body).raise_for_status()
    agent = next(agent for agent in api.get("/agents").json()["items"] if agent["name"] == "friend")
    api.patch(f"/agents/{agent['id']}", json={"tools": ["calculator"]}).raise_for_status()
    model.script(Reply("Let me see.", calls=[Call("calculator", {"expression": "6 * 7"})]), Reply("It is 42."))
    chat.type("six times seven?")
    question = chat.expect("Allow it? y, n [reason], or e to edit: ")
    assert '"expression": "6 * 7"' in question
    chat.type("y")
    chat.expect('calculator: {"result":42}')
    chat.expect("It is 42.")
    chat.expect("> ")
