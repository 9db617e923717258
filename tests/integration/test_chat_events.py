"""What `ai-agent chat` makes of a run's events: tools, questions, and streams that break."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scripted_api import COMPLETED, EXECUTION, MESSAGE, POSTED, QUEUED, RUN, SESSION, Event, Reply, ScriptedApi
from tests.terminal import Terminal

ASKED = "Allow it? y, n [reason], or e to edit: "


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi().serving() as api:
        yield api


@pytest.fixture
def chat(api: ScriptedApi, tmp_path: Path) -> Iterator[Terminal]:
    environment = {"AI_AGENT_URL": api.url, "AI_AGENT_API_KEY": "k", "AI_AGENT_DATA_DIR": str(tmp_path), "TZ": "UTC"}
    with Terminal("chat", "friend", environment=environment, folder=tmp_path) as terminal:
        terminal.expect("> ")
        yield terminal


def token(offset: int, text: str) -> Event:
    return "execution.token", {"message_id": MESSAGE, "offset": offset, "text": text}


def snapshot(text: str) -> Event:
    data = {"message_id": MESSAGE, "text": text, "offset": len(text), "status": "running", "truncated": False}
    return "execution.snapshot", data


def started(name: str, arguments: dict[str, Any], **more: Any) -> Event:
    about = {"call_id": "c1", "name": name, "kind": "builtin", "arguments": arguments, "expires_at": None}
    return "tool.started", about | more


def ended(kind: str, output: Any) -> Event:
    return f"tool.{kind}", {"call_id": "c1", "name": "tool", "output": output, "duration_ms": 3, "truncated": False}


def about_a_call(**more: Any) -> dict[str, Any]:
    return {"execution_id": EXECUTION, "session_id": SESSION, "call_id": "c/1", "name": "refund", **more}


REQUESTED: Event = (
    "approval.requested",
    about_a_call(arguments={"invoice": "\x1b[2J[bold]17"}, expires_at="2026-01-01T12:00:00Z"),
)


# Tools


def test_the_calls_of_tools_are_shown_between_what_is_said(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [
        [
            QUEUED,
            token(0, "One moment."),
            started("tool", {"city": "[red]Oslo[/] \x1b[2J"}),
            ended("completed", {"degrees": 3}),
            started("tool", {}),
            ended("failed", "it broke\nbadly\x1b[2J"),
            token(11, "It is cold."),
            COMPLETED,
        ]
    ]
    chat.type("weather?")
    assert chat.expect("It is cold.\n> ").endswith(
        "One moment.\n"
        '→ tool {"city":"[red]Oslo[/] \\u001b[2J"}\n'
        '← tool: {"degrees":3}\n'
        "→ tool {}\n"
        "← tool failed: it broke badly[2J\n"
        "It is cold.\n> "
    )


def test_what_is_long_is_shown_in_part(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [[QUEUED, started("tool", {}), ended("completed", "x" * 1000), COMPLETED]]
    chat.type("go")
    assert f"← tool: {'x' * 200}…\n" in chat.expect("\n> ")


def test_a_tool_that_a_client_has_to_run_is_told(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [[QUEUED, started("door", {}, kind="client", expires_at="2026-01-01T12:00:00Z"), COMPLETED]]
    chat.type("open")
    assert chat.expect("\n> ").endswith("→ door {}\n(waits until 12:00:00 for the client that runs it)\n> ")


# Questions


@pytest.mark.parametrize(
    ("typed", "decision"),
    [
        ("y", {"decision": "approve"}),
        ("YES", {"decision": "approve"}),
        ("n", {"decision": "reject", "reason": None}),
        ("no  far too much ", {"decision": "reject", "reason": "far too much"}),
    ],
)
def test_a_call_is_made_when_somebody_allows_it(
    api: ScriptedApi, chat: Terminal, typed: str, decision: dict[str, Any]
) -> None:
    resolved = about_a_call(decision=decision["decision"], reason=None, arguments={})
    api.streams = [[QUEUED, REQUESTED, POSTED, ("approval.resolved", resolved), token(0, "Done."), COMPLETED]]
    chat.type("refund it")
    question = chat.expect(ASKED)
    assert "refund is to be called, if it is allowed until 12:00:00:\n" in question
    assert '"invoice": "\\u001b[2J[bold]17"' in question
    chat.type(typed)
    assert "decided" not in chat.expect("Done.\n> ")
    assert api.posts() == [("/approvals/c%2F1", decision)]


def test_arguments_can_be_changed_before_they_are_allowed(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [[QUEUED, REQUESTED, POSTED, token(0, "Done."), COMPLETED]]
    chat.type("refund it")
    chat.expect(ASKED)
    chat.type("e")
    chat.expect('Arguments: {"invoice":"')
    chat.type('\x15{"invoice": 18}')
    chat.expect("Done.\n> ")
    assert api.posts() == [("/approvals/c%2F1", {"decision": "approve", "arguments": {"invoice": 18}})]


@pytest.mark.parametrize("broken", ["[18]", "{", ""])
def test_arguments_that_are_no_object_are_asked_for_again(api: ScriptedApi, chat: Terminal, broken: str) -> None:
    api.streams = [[QUEUED, REQUESTED, POSTED, token(0, "Done."), COMPLETED]]
    chat.type("refund it")
    chat.expect(ASKED)
    chat.type("e")
    chat.expect("Arguments: ")
    chat.type(f"\x15{broken}")
    chat.expect("That is no JSON object.")
    chat.expect(ASKED)
    assert api.posts() == []
    chat.type("n")
    chat.expect("Done.\n> ")


def test_nothing_else_allows_a_call(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [[QUEUED, REQUESTED, POSTED, token(0, "Done."), COMPLETED]]
    chat.type("refund it")
    for typed in ("", "yeah", "maybe y"):
        chat.expect(ASKED)
        chat.type(typed)
    chat.expect(ASKED)
    assert api.posts() == []
    chat.type("n")
    chat.expect("Done.\n> ")


def test_a_decision_that_comes_too_late_is_told_and_the_answer_goes_on(api: ScriptedApi, chat: Terminal) -> None:
    api.replies = [Reply(409, "The tool call does not wait for a approval")]
    expired = ("approval.expired", about_a_call())
    api.streams = [[QUEUED, REQUESTED, POSTED, expired, token(0, "Then not."), COMPLETED]]
    chat.type("refund it")
    chat.expect(ASKED)
    chat.type("y")
    told = chat.expect("Then not.\n> ")
    assert "does not wait for a approval (409)\n(refund: nobody has allowed it in time)\n" in told


def test_a_decision_reaches_a_server_that_is_being_restarted(api: ScriptedApi, chat: Terminal) -> None:
    api.replies = [Reply(503), Reply(502)]
    api.streams = [[QUEUED, REQUESTED, POSTED, POSTED, POSTED, token(0, "Done."), COMPLETED]]
    chat.type("refund it")
    chat.expect(ASKED)
    chat.type("y")
    chat.expect("Done.\n> ")
    assert api.posts() == [("/approvals/c%2F1", {"decision": "approve"})] * 3


def test_what_somebody_else_has_decided_is_told(api: ScriptedApi, chat: Terminal) -> None:
    resolved = ("approval.resolved", about_a_call(decision="reject", reason="no", arguments={}))
    api.streams = [[QUEUED, resolved, COMPLETED]]
    chat.type("refund it")
    chat.expect("(refund: somebody else has decided: reject)")


def test_ctrl_c_at_a_question_stops_the_run_and_allows_nothing(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [[QUEUED, REQUESTED, POSTED]]
    chat.type("refund it")
    chat.expect(ASKED)
    time.sleep(0.3)  # Python's own readline loses a signal that comes together with its prompt.
    chat.interrupt()
    chat.expect("(stopped)")
    chat.expect("> ")
    assert api.posts() == [("/cancel", None)]


def test_the_end_of_input_at_a_question_allows_nothing(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [[QUEUED, REQUESTED, POSTED, token(0, "Then not."), COMPLETED]]
    chat.type("refund it")
    chat.expect(ASKED)
    chat.end_of_input()
    chat.expect("Then not.\n> ")
    assert [body["decision"] for _, body in api.posts()] == ["reject"]


# Streams that break


def test_a_stream_that_breaks_goes_on_where_it_broke_and_says_so_once(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [
        [QUEUED, token(0, "one ")],
        Reply(503),
        [],
        [token(0, "one "), token(4, "two")],
        [token(7, " three"), COMPLETED],
    ]
    chat.type("count")
    assert chat.expect("\n> ").endswith("one \n(reconnecting)\ntwo\n(reconnecting)\n three\n> ")
    resumed = [call.headers.get("last-event-id") for call in api.asked_for_streams()]
    assert resumed == [None, "e:2", "e:2", "e:2", "e:4"]


def test_a_question_that_was_answered_is_not_asked_again(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [[QUEUED, REQUESTED, POSTED], [token(0, "Done."), COMPLETED]]
    chat.type("refund it")
    chat.expect(ASKED)
    chat.type("y")
    assert ASKED not in chat.expect("Done.\n> ")
    assert api.asked_for_streams()[-1].headers["last-event-id"] == "e:2"


def test_a_run_whose_beginning_was_not_heard_is_not_begun_twice(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [Reply(503), [], [QUEUED, token(0, "Here."), COMPLETED]]
    chat.type("hello")
    chat.expect("(reconnecting)\nHere.\n> ")
    keys = {call.headers["idempotency-key"] for call in api.asked_for_streams()}
    assert (len(api.asked_for_streams()), len(keys)) == (3, 1)
    api.streams = [[QUEUED, token(0, "Again."), COMPLETED]]
    chat.type("hello")
    chat.expect("Again.\n> ")
    assert api.asked_for_streams()[-1].headers["idempotency-key"] not in keys


def test_a_snapshot_shows_what_was_not_heard_and_nothing_twice(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [
        [QUEUED, token(0, "one "), snapshot("one "), token(4, "two "), snapshot("one "), snapshot("one two three ")],
        [token(14, "four"), COMPLETED],
    ]
    chat.type("count")
    assert chat.expect("\n> ") == "count\none two three \n(reconnecting)\nfour\n> "


def test_a_snapshot_of_another_text_is_shown_from_its_beginning(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [[QUEUED, token(0, "one two"), snapshot("uno due"), token(7, " tre"), COMPLETED]]
    chat.type("count")
    assert chat.expect("\n> ").endswith("one two\nuno due tre\n> ")


def test_a_run_that_starts_over_shows_what_it_keeps_and_goes_on(api: ScriptedApi, chat: Terminal) -> None:
    restarted = ("execution.restarted", {**RUN, "attempt": 2})
    api.streams = [[QUEUED, token(0, "one two"), restarted, snapshot("one "), token(4, "zwei"), COMPLETED]]
    chat.type("count")
    assert chat.expect("\n> ").endswith("one two\n(starting over)\none zwei\n> ")
    api.streams = [[QUEUED, token(0, "one"), restarted, token(0, "one two"), COMPLETED]]
    chat.type("count")
    assert chat.expect("\n> ").endswith("one\n(starting over)\none two\n> ")


def test_a_refusal_of_the_server_is_told_at_once(api: ScriptedApi, chat: Terminal) -> None:
    api.streams = [Reply(422, "The agent cannot be executed")]
    chat.type("hello")
    assert "reconnecting" not in chat.expect("The agent cannot be executed (422)")
