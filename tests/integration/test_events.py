"""Each change is told on the channels of what it changes: once, in order, as REST answers it."""

import asyncio
import signal
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ai_agent.backends import log_of
from ai_agent.domain.events import DATA, EventFrame, EventType
from ai_agent.realtime.event_log import LogPage, Position
from ai_agent.settings import load_settings
from tests.conftest import Server, create_database
from tests.model_server import ModelServer, Reply
from tests.runs import ended, make_agent, reaches, start

ODD = "it's 'quoted' \\ \"odd\" ünï 💥 $1 %s --"


@pytest.fixture
def api(deployment: Server) -> Iterator[httpx.Client]:
    with deployment.client() as client:
        yield client


def page(server: Server, channel: str) -> LogPage:
    async def read() -> LogPage:
        log = log_of(load_settings(server.environment))
        await log.open()
        try:
            return await log.read(channel, Position("", 0), 1000)
        finally:
            await log.close()

    return asyncio.run(read())


class Channel:
    """What was told on a channel."""

    def __init__(self, server: Server, name: str):
        self._server, self._name = server, name

    def events(self) -> list[EventFrame]:
        return page(self._server, self._name).events

    def tells(self, *types: str) -> list[dict[str, Any]]:
        """The data of the events, when they are of these types, and no more comes."""
        deadline = time.monotonic() + 10
        while [event.type for event in self.events()] != list(types) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        found = self.events()
        assert [event.type for event in found] == list(types)
        for event in found:
            msgspec.json.decode(event.data, type=DATA[EventType(event.type)])
            assert len(event.json) <= 256 * 1024
        return [msgspec.json.decode(event.data) for event in found]


@pytest.fixture
def channel(deployment: Server) -> Callable[[str, Any], Channel]:
    return lambda kind, key: Channel(deployment, f"{kind}:{key}")


def make_session(api: httpx.Client, **body: Any) -> dict[str, Any]:
    made = api.post("/sessions", json=body)
    assert made.status_code == 201
    return dict(made.json())


def done(answer: httpx.Response) -> Any:
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.content else None


def test_a_session_is_told_as_it_is_answered(api: httpx.Client, channel: Callable[[str, Any], Channel]) -> None:
    metadata = {"odd": ODD + "\x01", ODD: [1.50, None]}
    made = make_session(api, title=ODD, user_id=ODD, metadata=metadata)
    path = f"/sessions/{made['id']}"
    replaced = done(api.put(path, json={"title": "new"}))
    patched = done(api.patch(path, json={"metadata": {"a": 1}}))
    told = channel("session", made["id"]).tells("session.created", "session.updated", "session.updated")
    assert told == [made, replaced, patched]


def test_of_a_deleted_session_only_the_last_word_is_kept(
    api: httpx.Client, channel: Callable[[str, Any], Channel]
) -> None:
    one, *others = [make_session(api, title="secret")["id"] for _ in range(3)]
    done(api.post(f"/sessions/{one}/messages", json={"content": "secret"}))
    done(api.delete(f"/sessions/{one}"))
    done(api.post("/sessions/bulk-delete", json=others))
    for session_id in (one, *others):
        assert channel("session", session_id).tells("session.deleted") == [{"id": session_id}]


def test_messages_are_told_as_they_are_answered(api: httpx.Client, channel: Callable[[str, Any], Channel]) -> None:
    session = make_session(api)
    path = f"/sessions/{session['id']}/messages"
    first = done(api.post(path, json={"content": ODD, "metadata": {"odd": "\x01"}}))
    some = done(api.post(f"{path}/bulk-create", json=[{"content": "a"}, {"content": "b"}]))
    replaced = done(api.put(f"/messages/{first['id']}", json={"content": "new"}))
    patched = done(api.patch(f"/messages/{first['id']}", json={"metadata": {"a": 1}}))
    done(api.delete(f"/messages/{some[0]['id']}"))
    told = channel("session", session["id"]).tells(
        "session.created",
        *["message.created"] * 3,
        *["message.updated"] * 2,
        "message.deleted",
    )
    deleted = {"id": some[0]["id"], "session_id": session["id"], "parent_message_id": first["id"]}
    assert told == [session, first, *some, replaced, patched, deleted]


def test_several_sessions_and_a_fork_are_told_of(api: httpx.Client, channel: Callable[[str, Any], Channel]) -> None:
    made = done(api.post("/sessions/bulk-create", json=[{"title": "a"}, {"title": "b"}]))
    source = made[0]["id"]
    done(api.post(f"/sessions/{source}/messages", json={"content": "x"}))
    fork = done(api.post(f"/sessions/{source}/fork", json={}))
    assert fork["message_count"] == 1
    assert channel("session", made[1]["id"]).tells("session.created") == [made[1]]
    assert channel("session", fork["id"]).tells("session.created") == [fork]


def test_an_agent_is_told_as_it_is_answered(api: httpx.Client, channel: Callable[[str, Any], Channel]) -> None:
    name = f"agent-{uuid.uuid4().hex}"
    config = {"provider": "openai", "model": "m", "api_key": "sk-hidden"}
    made = done(api.post("/agents", json={"name": name, "model_config": config}))
    path = f"/agents/{made['id']}"
    patched = done(api.patch(path, json={"description": ODD}))
    done(api.patch(path, json={"description": ODD}))  # Changes nothing, and nothing is told.
    replaced = done(api.put(path, json={"name": name}))
    restored = done(api.post(f"{path}/versions/1/restore"))
    watched = channel("agent", made["id"])
    told = watched.tells("agent.created", "agent.updated", "agent.updated", "agent.updated")
    assert told == [made, patched, replaced, restored]
    assert told[0]["model_config"]["api_key"] == "***"
    done(api.delete(path))
    assert watched.tells("agent.deleted") == [{"id": made["id"]}]


def test_a_run_is_told_to_who_watches_its_session_or_its_agent(
    api: httpx.Client, channel: Callable[[str, Any], Channel]
) -> None:
    agent_id = make_agent(api)
    run = start(api, agent_id)
    ended(api, run["id"], seconds=60)
    of_session = channel("session", run["session_id"]).tells(
        *("session.created", "message.created", "execution.queued", "session.updated", "execution.started"),
        *("message.created", "execution.completed", "session.updated"),
    )
    of_agent = channel("agent", agent_id).tells(
        *("agent.created", "agent.updated", "execution.started", "execution.completed", "agent.updated")
    )
    ids = {"execution_id": run["id"], "session_id": run["session_id"], "agent_id": agent_id}
    for event in [*(of_session[n] for n in (2, 4, 6)), *of_agent[2:4]]:
        assert event | ids == event
    assert [of_session[n]["status"] for n in (3, 7)] == ["active", "idle"]
    assert [of_agent[n]["status"] for n in (1, 4)] == ["processing", "completed"]
    question, answer = done(api.get(f"/sessions/{run['session_id']}/messages"))["items"]
    assert [of_session[1], of_session[5]] == [question, answer]


def test_runs_of_a_deleted_session_are_forgotten_and_a_live_one_is_cancelled(
    api: httpx.Client, model: ModelServer, channel: Callable[[str, Any], Channel]
) -> None:
    agent_id = make_agent(api)
    before = start(api, agent_id)
    ended(api, before["id"], seconds=60)
    model.script(Reply(hang=True))
    live = start(api, agent_id, session_id=before["session_id"])
    reaches(api, live["id"], "running")
    done(api.delete(f"/sessions/{before['session_id']}"))
    (cancelled,) = channel("execution", live["id"]).tells("execution.cancelled")
    assert cancelled["execution_id"] == live["id"]
    channel("execution", before["id"]).tells()
    told = [event.type for event in channel("agent", agent_id).events()]
    assert told[-2:] == ["execution.cancelled", "agent.updated"]


def test_what_is_refused_or_repeated_is_not_told(api: httpx.Client, channel: Callable[[str, Any], Channel]) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    session = done(api.post("/sessions", json={}, headers=key))
    assert done(api.post("/sessions", json={}, headers=key)) == session
    path = f"/sessions/{session['id']}"
    assert api.patch(path, json={"title": "x"}, headers={"If-Match": '"99"'}).status_code == 412
    assert api.post(f"{path}/messages", json={"content": "x", "parent_message_id": session["id"]}).status_code == 422
    channel("session", session["id"]).tells("session.created")


def test_long_texts_are_cut(api: httpx.Client, channel: Callable[[str, Any], Channel]) -> None:
    session = make_session(api)
    text = "é\x01" * 120_000
    calls = [{"id": "1", "output": "x" * 200_000}]
    done(api.post(f"/sessions/{session['id']}/messages", json={"content": text, "tool_calls": calls}))
    _, told = channel("session", session["id"]).tells("session.created", "message.created")
    assert told["truncated"]
    assert told["tool_calls"] == []
    assert text.startswith(told["content"])
    assert 8000 < len(told["content"]) < 64 * 1024


def test_two_nodes_that_write_to_one_session_are_told_in_the_order_of_its_messages(
    postgres_url: str, valkey_url: str, tmp_path: Path
) -> None:
    database_url = create_database(postgres_url)
    nodes = [Server(database_url, tmp_path, "--no-worker", AI_AGENT_REDIS_URL=valkey_url) for _ in range(2)]
    try:
        with nodes[0].client() as one, nodes[1].client() as other:
            session = make_session(one)
            path = f"/sessions/{session['id']}/messages"
            with ThreadPoolExecutor(6) as pool:
                answers = list(pool.map(lambda n: (one, other)[n % 2].post(path, json={"content": "x"}), range(60)))
            assert {answer.status_code for answer in answers} == {201}
        told = Channel(nodes[0], f"session:{session['id']}").tells("session.created", *["message.created"] * 60)
    finally:
        for node in nodes:
            node.stop()
    assert [message["position"] for message in told[1:]] == list(range(1, 61))


@contextmanager
def busy(file: Path) -> Iterator[None]:
    """Nobody else writes to the file."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_an_answer_does_not_wait_for_the_log_and_a_process_that_is_killed_then_leaves_it_to_the_next(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(database_url, tmp_path)
    try:
        with server.client() as api:
            session = make_session(api)
            told = Channel(server, f"session:{session['id']}")
            told.tells("session.created")
            with busy(tmp_path / "events.db"):
                done(api.post(f"/sessions/{session['id']}/messages", json={"content": "one"}))
                done(api.post(f"/sessions/{session['id']}/messages", json={"content": "two"}))
                server.stop(signal.SIGKILL)
        server.start()
        _, one, two = told.tells("session.created", "message.created", "message.created")
        assert (one["content"], two["content"]) == ("one", "two")
    finally:
        server.stop()


def test_what_was_deleted_by_a_process_that_is_killed_then_is_forgotten_by_the_next(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(database_url, tmp_path)
    try:
        with server.client() as api:
            session = make_session(api, title="secret")
            told = Channel(server, f"session:{session['id']}")
            told.tells("session.created")
            with busy(tmp_path / "events.db"):
                done(api.delete(f"/sessions/{session['id']}"))
                server.stop(signal.SIGKILL)
        server.start()
        deadline = time.monotonic() + 10
        while [event.type for event in told.events()] != ["session.deleted"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        server.stop()
