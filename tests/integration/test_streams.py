"""Streams whose log no longer tells: the position is gone, the log is lost, the end was never told."""

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from typing import Any

import httpx
import pytest

from ai_agent.domain.events import EventType, NewEvent
from ai_agent.realtime.event_log import Position
from ai_agent.realtime.sqlite_log import SqliteLog
from tests.conftest import Server
from tests.integration.test_executions import agent, events_of, heard, started, wait_for_end
from tests.model_server import ModelServer, Reply
from tests.runs import SSE
from tests.sql import execute

FOREIGN = {"Last-Event-ID": "00000000:2"}


def finished(api: httpx.Client, model: ModelServer, words: str = "one two three") -> tuple[str, list[dict[str, Any]]]:
    """A run that has ended: its path, and all its events."""
    model.script(Reply(words))
    path = started(api, agent(api))
    wait_for_end(api, path)
    return path, events_of(api.get(f"{path}/events", headers=SSE))


def sql(server: Server, statement: str) -> None:
    """Changes the log behind the server's back."""
    with closing(sqlite3.connect(server.folder / "events.db", isolation_level=None, timeout=5)) as log:
        log.execute(statement)


def channel_of(path: str) -> str:
    return f"execution:{path.rpartition('/')[2]}"


def trimmed(server: Server, path: str, floor: int) -> None:
    where = f"(SELECT id FROM channels WHERE name = '{channel_of(path)}')"
    sql(server, f"DELETE FROM events WHERE channel IN {where} AND seq < {floor}")
    sql(server, f"UPDATE channels SET floor = {floor} WHERE id IN {where}")


def lose_log(server: Server) -> None:
    for file in server.folder.glob("events.db*"):
        file.unlink()


def assert_told_by_snapshot(events: list[dict[str, Any]], api: httpx.Client, path: str, text: str) -> None:
    execution = api.get(path).json()
    snapshot, end = events
    assert snapshot["type"] == "execution.snapshot"
    assert snapshot["data"] == {
        "message_id": execution["output_message_id"],
        "text": text,
        "offset": len(text),
        "status": execution["status"],
        "truncated": False,
    }
    assert end["type"] == f"execution.{execution['status']}"
    assert end["data"]["message_id"] == execution["output_message_id"]
    assert end["data"]["usage"] == execution["usage"]
    assert end["seq"] == snapshot["seq"] + 1


@pytest.mark.parametrize("position", ["00000000:2", "00000000:99999", "99999"])
def test_a_position_that_is_gone_gets_the_text_and_the_end(
    api: httpx.Client, model: ModelServer, position: str
) -> None:
    path, events = finished(api, model)
    resumed = events_of(api.get(f"{path}/events", headers=SSE | {"Last-Event-ID": position}))
    assert_told_by_snapshot(resumed, api, path, "one two three")
    assert resumed[-1] == events[-1]
    page = api.get(f"{path}/events", params={"after": position}).json()
    assert (page["items"], page["has_more"]) == (resumed, False)


def test_a_run_whose_events_were_trimmed_is_told_by_its_text_and_from_the_edge_as_it_was(
    api: httpx.Client, model: ModelServer, server: Server
) -> None:
    path, events = finished(api, model)
    last = events[-1]["seq"]
    trimmed(server, path, last - 1)
    for headers in (SSE, SSE | {"Last-Event-ID": "1"}):
        assert_told_by_snapshot(events_of(api.get(f"{path}/events", headers=headers)), api, path, "one two three")
    at_the_edge = api.get(f"{path}/events", headers=SSE | {"Last-Event-ID": str(last - 2)})
    assert events_of(at_the_edge) == events[-2:]
    snapshot = api.get(f"{path}/events", headers=SSE).text.splitlines()[2].removeprefix("id: ")
    assert events_of(api.get(f"{path}/events", headers=SSE | {"Last-Event-ID": snapshot})) == events[-1:]


def test_a_live_run_is_told_from_its_first_event_to_whoever_comes_from_elsewhere(
    api: httpx.Client, model: ModelServer
) -> None:
    model.go_on.clear()
    model.script(Reply("one two three", pause_after=1))
    path = started(api, agent(api))
    heard(api, path, "one")
    with api.stream("GET", f"{path}/events", headers=SSE | FOREIGN) as response:
        model.go_on.set()
        events = events_of(response)
    assert events == events_of(api.get(f"{path}/events", headers=SSE))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_a_live_run_is_told_from_the_first_snapshot_that_is_kept(
    api: httpx.Client, model: ModelServer, server: Server
) -> None:
    async def tell_snapshot(channel: str) -> int:
        log = SqliteLog(server.folder / "events.db")
        await log.open()
        data = {"message_id": None, "text": "all so far", "offset": 10, "status": "running", "truncated": False}
        try:
            return (await log.append(channel, [NewEvent.of(EventType.SNAPSHOT, data)])).seq
        finally:
            await log.close()

    model.go_on.clear()
    model.script(Reply("one two three", pause_after=1))
    path = started(api, agent(api))
    heard(api, path, "one")
    seq = asyncio.run(tell_snapshot(channel_of(path)))
    trimmed(server, path, 3)
    page = api.get(f"{path}/events").json()["items"]
    assert (page[0]["type"], page[0]["seq"]) == ("execution.snapshot", seq)
    with api.stream("GET", f"{path}/events", headers=SSE) as response:
        model.go_on.set()
        events = events_of(response)
    assert events[0] == page[0]
    assert [event["seq"] for event in events] == list(range(seq, seq + len(events)))
    assert events[-1]["type"] == "execution.completed"


def test_a_run_whose_log_is_lost_is_told_by_its_row(
    api: httpx.Client, model: ModelServer, server: Server, database_url: str
) -> None:
    path, _ = finished(api, model)
    long_path, _ = finished(api, model, "w" * 70_000)
    server.stop()
    lose_log(server)
    # As if it had ended long ago, so that nobody waits for the log to tell of it.
    ago = "'2026-01-01T00:00:00.000000Z'"
    execute(database_url, f"UPDATE executions SET queued_at = {ago}, finished_at = {ago} WHERE status = 'completed'")
    server.start()
    with server.client() as api:
        for headers in (SSE, SSE | {"Last-Event-ID": "3"}, SSE | FOREIGN):
            began = time.monotonic()
            told = api.get(f"{path}/events", headers=headers)
            assert time.monotonic() - began < 0.8
            assert_told_by_snapshot(events_of(told), api, path, "one two three")
        assert api.get(f"{path}/events").json()["items"] == events_of(told)
        snapshot, _ = events_of(api.get(f"{long_path}/events", headers=SSE))
        data = snapshot["data"]
        assert (len(data["text"]), data["offset"], data["truncated"]) == (65_536, 70_000, True)


def test_a_failed_run_whose_log_is_lost_tells_why_it_failed(
    api: httpx.Client, model: ModelServer, server: Server
) -> None:
    model.script(Reply(status=400))
    path = started(api, agent(api))
    error = wait_for_end(api, path)["error"]
    sql(server, "DELETE FROM events WHERE type = 'execution.failed'")
    events = events_of(api.get(f"{path}/events", headers=SSE))
    assert [event["type"] for event in events[-2:]] == ["execution.snapshot", "execution.failed"]
    told = events[-1]["data"]
    assert {name: told[name] for name in ("code", "message", "retryable")} == {
        name: error[name] for name in ("code", "message", "retryable")
    }
    assert f"/executions/{told['execution_id']}" == path


def test_a_stream_ends_although_nobody_tells_the_log_of_the_end(
    api: httpx.Client, model: ModelServer, server: Server, database_url: str
) -> None:
    model.go_on.clear()
    model.script(Reply("one two three", pause_after=1))
    path = started(api, agent(api))
    heard(api, path, "one")
    with api.stream("GET", f"{path}/events", headers=SSE) as response:
        lines = response.iter_lines()
        next(line for line in lines if "one" in line)
        execute(
            database_url,
            "UPDATE executions SET status = 'cancelled', finished_at = queued_at, holds_session = false"
            f" WHERE id = '{path.rpartition('/')[2]}'",
        )
        began = time.monotonic()
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [event["type"] for event in rest] == ["execution.snapshot", "execution.cancelled"]
    assert time.monotonic() - began < 3
    model.go_on.set()


def test_what_was_said_in_a_deleted_session_is_in_no_log(api: httpx.Client, model: ModelServer, server: Server) -> None:
    path, _ = finished(api, model)
    session = api.get(path).json()["session_id"]
    assert api.delete(f"/sessions/{session}").status_code == 204

    async def read() -> list[Any]:
        log = SqliteLog(server.folder / "events.db")
        await log.open()
        try:
            return list((await log.read(channel_of(path), Position("", 0), 100)).events)
        finally:
            await log.close()

    deadline = time.monotonic() + 5
    while events := asyncio.run(read()):  # It is forgotten behind the answer.
        assert time.monotonic() < deadline, events
        time.sleep(0.05)


def test_those_who_follow_one_run_hear_the_same(api: httpx.Client, model: ModelServer) -> None:
    model.go_on.clear()
    model.script(Reply("one two three four five", delay=0.02, pause_after=1))
    path = started(api, agent(api))
    heard(api, path, "one")
    with (
        api.stream("GET", f"{path}/events", headers=SSE) as first,
        api.stream("GET", f"{path}/events", headers=SSE | {"Last-Event-ID": "2"}) as second,
    ):
        model.go_on.set()
        whole = events_of(first)
        assert events_of(second) == whole[2:]
    assert whole == events_of(api.get(f"{path}/events", headers=SSE))
