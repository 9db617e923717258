"""What has to hold in a session whatever has happened: read as a client reads it, and judged apart from the reading."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.sql import execute

PATIENCE_SECONDS = 10.0
"""So long after the end of a fault no run is left that has not ended."""
FINAL = {"completed", "failed", "cancelled"}
TERMINAL = {f"execution.{status}" for status in FINAL}

Item = dict[str, Any]


@dataclass
class History:
    """All that the API tells of one session."""

    session: Item
    messages: list[Item]
    executions: dict[str, Item]
    events: dict[str, list[Item]]

    @classmethod
    def read(cls, api: httpx.Client, session_id: str) -> "History":
        runs = {run["id"]: run for run in _pages(api, "/executions", session_id=session_id, limit=100)}
        return cls(
            api.get(f"/sessions/{session_id}").json(),
            list(_pages(api, f"/sessions/{session_id}/messages", limit=200)),
            runs,
            {run: log(api, f"/executions/{run}") for run in runs},
        )


def log(api: httpx.Client, path: str) -> list[Item]:
    events: list[Item] = []
    while True:
        page = api.get(f"{path}/events", params={"after": events[-1]["seq"] if events else 0, "limit": 200}).json()
        events += page["items"]
        if not page["has_more"]:
            return events


def _pages(api: httpx.Client, path: str, **query: Any) -> Iterator[Item]:
    page = api.get(path, params=query).json()
    yield from page["items"]
    while page["has_more"]:
        page = api.get(path, params=query | {"cursor": page["next_cursor"]}).json()
        yield from page["items"]


def assert_well(api: httpx.Client, database_url: str, paths: Sequence[str], healed: float) -> list[Item]:
    """All that was accepted has ended in time, once, and its sessions tell it so. Answers the runs as they ended."""
    runs = _ended(api, paths, healed)
    for session_id in {run["session_id"] for run in runs}:
        history = _told(api, session_id)
        lost = {run["id"] for run in runs if run["session_id"] == session_id} - history.executions.keys()
        assert not lost, f"accepted, and not in the session: {lost}"
        assert not (wrong := faults(history)), "\n".join(wrong)
    held = execute(database_url, "SELECT id, status FROM executions WHERE holds_session AND finished_at IS NOT NULL")
    assert not held, f"ended, and keep their session: {held}"
    return runs


def _told(api: httpx.Client, session_id: str) -> History:
    """What has been committed is told behind that: within a second."""
    deadline = time.monotonic() + 1
    while faults(history := History.read(api, session_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return history


def _ended(api: httpx.Client, paths: Sequence[str], healed: float) -> list[Item]:
    open_, runs = list(paths), {}
    while open_:
        for path in list(open_):
            response = api.get(path)
            if response.status_code == 200 and response.json()["finished_at"]:
                runs[path] = response.json()
                open_.remove(path)
        waited = time.monotonic() - healed
        stuck = [api.get(path).json() for path in open_] if waited > PATIENCE_SECONDS else []
        assert not stuck, f"not ended after {waited:.1f} s: {stuck}"
        time.sleep(0.05 if open_ else 0)
    print(f"{len(paths)} runs had ended {time.monotonic() - healed:.1f} s after the fault")
    return [runs[path] for path in paths]


def faults(history: History) -> list[str]:
    """What is wrong with a session whose runs have all ended; empty when nothing is."""
    wrong = [*_of_session(history), *_of_messages(history)]
    for run in history.executions.values():
        wrong += [f"{run['id']}: {fault}" for fault in _of_run(history, run)]
    return wrong


def _of_session(history: History) -> Iterator[str]:
    if history.session["status"] != "idle":
        yield f"the session is {history.session['status']}"
    if history.session["message_count"] != len(history.messages):
        yield f"the session counts {history.session['message_count']} messages of {len(history.messages)}"


def _of_messages(history: History) -> Iterator[str]:
    by_id = {message["id"]: message for message in history.messages}
    answers = [message for message in history.messages if message["role"] == "assistant"]
    answered = Counter(answer["parent_message_id"] for answer in answers)
    if len({message["position"] for message in history.messages}) != len(by_id):
        yield "two messages have one position"
    for name, counts in ("execution", Counter(a["execution_id"] for a in answers)), ("question", answered):
        yield from (f"{name} {one} was answered {times} times" for one, times in counts.items() if times > 1)
    for message in history.messages:
        parent = by_id.get(message["parent_message_id"])
        if message["parent_message_id"] and parent is None:
            yield f"message {message['position']} follows one that is not there"
        elif message["role"] == "assistant" and (parent is None or parent["role"] != "user"):
            yield f"answer {message['position']} follows no question"
        elif message["role"] == "user" and parent and parent["role"] == "user" and _both(answered, message, parent):
            yield f"question {message['position']} follows a question, and not the answer to that"
        if parent and parent["position"] >= message["position"]:
            yield f"message {message['position']} comes before the one that it follows"


def _both(answered: "Counter[str]", *questions: Item) -> bool:
    """A question that was given up before its turn hangs where it was asked, and nothing hangs on it."""
    return all(answered[question["id"]] for question in questions)


def _of_run(history: History, run: Item) -> Iterator[str]:
    if run["status"] not in FINAL or not run["finished_at"]:
        yield f"is {run['status']}"
    events = history.events[run["id"]]
    if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
        yield f"events have a gap: {[event['seq'] for event in events]}"
    terminal = [event["type"] for event in events if event["type"] in TERMINAL]
    if terminal != [f"execution.{run['status']}"] or events[-1]["type"] not in TERMINAL:
        yield f"{run['status']}, but its events end with {[event['type'] for event in events][-3:]} of {terminal}"
    stored = [message for message in history.messages if message["execution_id"] == run["id"]]
    if [message["id"] for message in stored] != [run["output_message_id"]] * bool(run["output_message_id"]):
        yield f"its answer is {run['output_message_id']}, stored are {[message['id'] for message in stored]}"
    if stored or run["input_message_id"]:  # A run that was rolled back keeps no text to compare with.
        yield from _of_text(events, stored[0] if stored else None)


def _of_text(events: list[Item], answer: Item | None) -> Iterator[str]:
    said, speakers = "", set[str]()
    for event in events:
        data = event["data"]
        if event["type"] == "execution.restarted":
            said, speakers = "", set()
        elif event["type"] == "execution.snapshot":
            said, speakers = data["text"], {data["message_id"]}
        elif event["type"] == "execution.token":
            if data["offset"] != len(said):
                yield f"event {event['seq']} is at {data['offset']} where {len(said)} characters were said"
            said, speakers = said + data["text"], speakers | {data["message_id"]}
    if said != (answer["content"] if answer else ""):
        yield f"its events say {said!r}, its answer {answer and answer['content']!r}"
    if speakers - ({answer["id"]} if answer else set()):
        yield f"words of {speakers} in the answer {answer and answer['id']}"
