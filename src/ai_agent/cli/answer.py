"""An answer on the screen: what the model says, the tools that it calls, and what somebody has to allow."""

import contextlib
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec
from rich.markup import escape

from ai_agent.cli.screen import ask, console, edit, show
from ai_agent.cli.server import told
from ai_agent.client import Client, Event, Refused
from ai_agent.domain.event_data import (
    ApprovalExpiredData,
    ApprovalRequestedData,
    ApprovalResolvedData,
    EndedData,
    FailedData,
    QueuedData,
    SnapshotData,
    StartedData,
    TokenData,
    ToolEndedData,
    ToolStartedData,
)
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

    def hear(self, event: Event) -> None:
        """Shows an event. Asks, and waits for the reply, where the run has to be allowed to go on."""
        self.execution_id = event.ch.partition(":")[2]
        match event.data:
            case TokenData(offset=offset, text=text):
                self._speak(offset, text)
            case SnapshotData(text=text):
                self._catch_up(text)
            case QueuedData(session_id=session_id):
                self.session_id = str(session_id)
            case _:
                self._show(event)

    def _show(self, event: Event) -> None:
        """What has a line of its own; what is not known is none of the terminal's business."""
        match event.data:
            case StartedData() if event.type == EventType.RESTARTED:
                self._said = ""
                self.note("starting over")
            case EndedData():
                self.end_line()
            case FailedData(message=message):
                self._line(message, style="red")
            case ToolStartedData() | ToolEndedData() as data:
                self._show_call(event.type, data)
            case ApprovalRequestedData() as data:
                self._ask(data)
            case ApprovalResolvedData() as data if data.call_id not in self._decided:
                self.note(f"{data.name}: somebody else has decided: {data.decision}")
            case ApprovalExpiredData(name=name):
                self.note(f"{name}: nobody has allowed it in time")

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

    def _line(self, text: str, style: str | None = None) -> None:
        self.end_line()
        show(text, style=style)

    def _show_call(self, kind: str, data: ToolStartedData | ToolEndedData) -> None:
        if isinstance(data, ToolEndedData):
            failed = kind == EventType.TOOL_FAILED
            self._line(f"← {data.name}{' failed' * failed}: {_short(data.output)}", style="yellow" if failed else "dim")
            return
        self._line(f"→ {data.name} {_short(data.arguments)}", style="dim")
        if data.expires_at is not None:
            self.note(f"waits until {_clock(data.expires_at)} for the client that runs it")

    def _ask(self, data: ApprovalRequestedData) -> None:
        arguments = msgspec.json.format(msgspec.json.encode(data.arguments)).decode()
        self._line(f"{data.name} is to be called, if it is allowed until {_clock(data.expires_at)}:", style="bold")
        show(arguments)
        self._decided.add(data.call_id)
        path = f"/executions/{self.execution_id}/approvals/{quote(data.call_id, safe='')}"
        try:
            self._client.insist("POST", path, json=_decision(data.arguments))
        except Refused as error:  # It came too late, or somebody else was faster.
            show(told(error).message, style="red")


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


def _clock(time: datetime) -> str:
    """The time of day where the terminal is."""
    return f"{time.astimezone():%H:%M:%S}"
