"""`ai-agent chat`: a conversation in the terminal."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from rich.markup import escape

from ai_agent.cli.answer import Answer
from ai_agent.cli.screen import ask, console, show
from ai_agent.cli.server import explained, local_key, told
from ai_agent.client import Client, ClientError
from ai_agent.domain.errors import ConfigurationError
from ai_agent.execution.model_reach import NO_MODEL
from ai_agent.settings import Settings

HELP = "/new starts a conversation, /history shows this one, /quit leaves. Ctrl-C stops an answer."


def chat(agent: str, url: str, api_key: str | None, session_id: str | None, settings: Settings) -> None:
    """Talks until /quit or end of input. Raises ConfigurationError when the server or the agent is not there."""
    with explained():
        client = Client(url, api_key or local_key(settings))
        conversation = Conversation(client, _find_agent(client, agent), session_id)
    console.print(f"[bold]{escape(agent)}[/] at {url}. {HELP}")
    _remember_lines(settings.directory / "chat_history")
    while (line := _ask()) not in (None, "/quit"):
        if line:
            _do(conversation, line)
    conversation.leave()


def _do(conversation: "Conversation", line: str) -> None:
    commands: dict[str, Callable[[], None]] = {
        "/new": conversation.begin,
        "/history": conversation.show,
        "/help": lambda: console.print(HELP),
    }
    say = partial(conversation.say, line)
    unknown = partial(console.print, f"No such command. {HELP}")
    try:
        (commands.get(line, unknown) if line.startswith("/") else say)()
    except ClientError as error:
        wrong = told(error)
        console.print(f"[red]{escape(wrong.message)}[/] {escape(wrong.hint)}")


def _ask() -> str | None:
    """A line without its outer white space, None at the end of input. Ctrl-C only clears the line."""
    try:
        return ask("> ")
    except KeyboardInterrupt:
        console.print()
        return ""
    except EOFError:
        console.print()
        return None


class Conversation:
    def __init__(self, client: Client, agent_id: str, session_id: str | None):
        self._client = client
        self._agent_id = agent_id
        self._session_id = session_id
        if session_id is not None:
            client.call("GET", f"/sessions/{quote(session_id, safe='')}")

    def begin(self) -> None:
        self._session_id = None
        console.print("A new conversation.")

    def show(self) -> None:
        if self._session_id is None:
            console.print("Nothing was said yet.")
            return
        page = self._client.call("GET", f"/sessions/{self._session_id}/messages", params={"limit": 200})
        for message in page["items"]:
            console.print(f"{message['role']}:", style="bold", end=" ")
            show(message["content"])

    def leave(self) -> None:
        if self._session_id is not None:
            console.print(f"[dim]Go on later with: ai-agent chat --session {self._session_id}[/]")

    def say(self, text: str) -> None:
        """Shows the answer as it comes, and asks what it asks; Ctrl-C cancels the run and keeps what was said."""
        goes_on = {} if self._session_id is None else {"session_id": self._session_id}
        answer = Answer(self._client)
        events = self._client.execute(self._agent_id, text, on_outage=lambda: answer.note("reconnecting"), **goes_on)
        try:
            for event in events:
                answer.hear(event)
        except KeyboardInterrupt:
            if answer.execution_id is not None:
                self._client.call("POST", f"/executions/{answer.execution_id}/cancel")
            console.print(" [dim](stopped)[/]")
        finally:
            self._session_id = answer.session_id or self._session_id


def _find_agent(client: Client, name: str) -> str:
    """An agent's id by its name. Raises ConfigurationError that says which there are."""
    names, cursor = [], None
    while True:
        page = client.call("GET", "/agents", params={"limit": 100, **({"cursor": cursor} if cursor else {})})
        for agent in page["items"]:
            if name in (agent["name"], agent["id"]):
                return str(agent["id"])
            names.append(agent["name"])
        cursor = page["next_cursor"]
        if cursor is None:
            there = f"There are: {', '.join(names)}" if names else f"{NO_MODEL}, and create an agent"
            raise ConfigurationError(f"There is no agent named {name}", there)


def _remember_lines(file: Path) -> None:
    """Arrow keys bring back what was typed, also in earlier chats."""
    with contextlib.suppress(ImportError):
        import atexit
        import readline

        with contextlib.suppress(OSError):
            readline.read_history_file(file)
        readline.set_history_length(1000)
        atexit.register(_save_lines, file)


def _save_lines(file: Path) -> None:
    import readline

    with contextlib.suppress(OSError):
        readline.write_history_file(file)
