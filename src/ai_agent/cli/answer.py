"""An answer on the screen: what the model says, the tools that it calls, and what somebody has to allow."""

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec
from rich.markup import escape

from ai_agent.cli.client import Client
from ai_agent.cli.screen import ask, console, edit, show
from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.events import EventType

SHOWN_CHARACTERS = 200
"""Of the arguments and the output of a call; somebody who is asked for leave sees all."""

QUESTION = "Allow it? y, n [reason], or e to edit: "


class Answer:
    """What was heard of one run. `execution_id` and `session_id` are None before its first event."""

    def __init__(self, client: Client):
        self.execution_id: str | None = None
        self.session_id: str | None = None
        self._client = client
        self._said = ""
        self._inside_a_line = False
        self._decided: set[str] = set()
        self._shown: dict[str, Callable[[dict[str, Any]], None]] = {
            EventType.QUEUED: self._queued,
            EventType.RESTARTED: self._restarted,
            EventType.FAILED: self._failed,
            EventType.COMPLETED: self._ended,
            EventType.CANCELLED: self._ended,
            EventType.TOOL_STARTED: self._tool_started,
            EventType.TOOL_COMPLETED: self._tool_completed,
            EventType.TOOL_FAILED: self._tool_failed,
            EventType.APPROVAL_REQUESTED: self._approval_requested,
            EventType.APPROVAL_RESOLVED: self._approval_resolved,
            EventType.APPROVAL_EXPIRED: self._approval_expired,
        }

    def hear(self, frame: dict[str, Any]) -> None:
        """Shows an event. Asks, and waits for the reply, where the run has to be allowed to go on."""
        self.execution_id = frame["ch"].partition(":")[2]
        kind, data = frame["type"], frame["data"]
        if kind == EventType.TOKEN:
            self._speak(data["offset"], data["text"])
        elif kind == EventType.SNAPSHOT:
            self._catch_up(data["text"])
        elif kind in self._shown:
            self.end_line()
            self._shown[kind](data)

    def note(self, text: str) -> None:
        self.end_line()
        console.print(f"[dim]({escape(text)})[/]")

    def end_line(self) -> None:
        if self._inside_a_line:
            console.print()
        self._inside_a_line = False

    def _speak(self, offset: int, text: str) -> None:
        """Shows what of a piece was not shown yet: behind a broken line some comes again."""
        new = text[max(0, len(self._said) - offset) :]
        self._said = self._said[:offset] + text
        if new:
            show(new, end="")
            self._inside_a_line = True

    def _catch_up(self, text: str) -> None:
        """Shows all that was said, or the rest of it when the beginning stands there already."""
        if self._said.startswith(text):
            return
        if not text.startswith(self._said):
            self.end_line()
            self._said = ""
        self._speak(0, text)

    def _queued(self, data: dict[str, Any]) -> None:
        self.session_id = data["session_id"]

    def _restarted(self, _: dict[str, Any]) -> None:
        self._said = ""
        self.note("starting over")

    def _ended(self, _: dict[str, Any]) -> None:
        """That its line has ended is all there is to show."""

    def _failed(self, data: dict[str, Any]) -> None:
        show(data["message"], style="red")

    def _tool_started(self, data: dict[str, Any]) -> None:
        show(f"→ {data['name']} {_short(data['arguments'])}", style="dim")
        if data["expires_at"] is not None:
            self.note(f"waits until {_clock(data['expires_at'])} for the client that runs it")

    def _tool_completed(self, data: dict[str, Any]) -> None:
        show(f"← {data['name']}: {_short(data['output'])}", style="dim")

    def _tool_failed(self, data: dict[str, Any]) -> None:
        show(f"← {data['name']} failed: {_short(data['output'])}", style="yellow")

    def _approval_resolved(self, data: dict[str, Any]) -> None:
        if data["call_id"] not in self._decided:
            self.note(f"{data['name']}: somebody else has decided: {data['decision']}")

    def _approval_expired(self, data: dict[str, Any]) -> None:
        self.note(f"{data['name']}: nobody has allowed it in time")

    def _approval_requested(self, data: dict[str, Any]) -> None:
        arguments = msgspec.json.format(msgspec.json.encode(data["arguments"])).decode()
        show(f"{data['name']} is to be called, if it is allowed until {_clock(data['expires_at'])}:", style="bold")
        show(arguments)
        self._decided.add(data["call_id"])
        path = f"/executions/{self.execution_id}/approvals/{quote(data['call_id'], safe='')}"
        try:
            self._client.insist("POST", path, json=_decision(data["arguments"]))
        except ConfigurationError as error:  # It came too late, or somebody else was faster.
            show(error.message, style="red")


def _decision(arguments: dict[str, Any]) -> dict[str, Any]:
    """What somebody decides, as the API takes it. Where nobody can be asked any more, nothing is allowed."""
    while True:
        try:
            choice, _, reason = ask(QUESTION).partition(" ")
            match choice.lower():
                case "y" | "yes":
                    return {"decision": "approve"}
                case "n" | "no":
                    return {"decision": "reject", "reason": reason.strip() or None}
                case "e" | "edit" if (edited := _edited(arguments)) is not None:
                    return {"decision": "approve", "arguments": edited}
        except EOFError:
            console.print()
            return {"decision": "reject", "reason": "Nobody was there to be asked"}


def _edited(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments as somebody has changed them; None for what is no JSON object."""
    text = edit("Arguments: ", msgspec.json.encode(arguments).decode())
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(text, type=dict[str, Any])
    console.print("That is no JSON object.")
    return None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…"


def _clock(time: str) -> str:
    """The time of day where the terminal is."""
    return f"{datetime.fromisoformat(time).astimezone():%H:%M:%S}"
