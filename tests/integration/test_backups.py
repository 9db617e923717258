"""Copies of a database: made while it is written, and put back."""

import itertools
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import FreshServer, Server, create_database
from tests.integration.test_commands import ai_agent, assert_one_line_and_a_hint
from tests.servers import POSTGRES

WRITERS = 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = FreshServer(f"sqlite:///{tmp_path}/x.db", tmp_path)
    yield started
    if started.process.poll() is None:
        started.stop()


@contextmanager
def written(server: Server) -> Iterator[list[str]]:
    """While sessions get messages: the ids of what was answered."""
    stop, answered = threading.Event(), list[str]()

    def write(name: str) -> None:
        with server.client() as api:
            session = api.post("/sessions", json={"title": name}).json()["id"]
            for number in itertools.count():
                if stop.is_set():
                    return
                made = api.post(f"/sessions/{session}/messages", json={"content": f"{name} {number}"})
                answered.append(made.json()["id"])

    threads = [threading.Thread(target=write, args=(str(n),)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        while len(answered) < 50:
            time.sleep(0.01)
        yield answered
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def all_messages(api: httpx.Client) -> dict[str, dict[str, Any]]:
    """Of all sessions, whose counts are theirs."""
    found: dict[str, dict[str, Any]] = {}
    for session in api.get("/sessions", params={"limit": 100}).json()["items"]:
        page, of_session = {"next_cursor": None, "has_more": True}, list[dict[str, Any]]()
        while page["has_more"]:
            query = {"limit": 200} | ({"cursor": page["next_cursor"]} if page["next_cursor"] else {})
            page = api.get(f"/sessions/{session['id']}/messages", params=query).json()
            of_session += page["items"]
        assert session["message_count"] == len(of_session)
        found |= {message["id"]: message for message in of_session}
    return found


def test_a_copy_that_was_made_under_load_holds_all_that_was_answered_before(server: Server, tmp_path: Path) -> None:
    copy, elsewhere = tmp_path / "copy.db", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with written(server) as answered:
        before = list(answered)
        server.command("db", "backup", str(copy), check=True)
        while len(answered) < len(before) + 20:
            time.sleep(0.01)
    assert (copy.stat().st_mode & 0o777, list(tmp_path.glob("*.part"))) == (0o600, [])
    other = FreshServer(f"sqlite:///{elsewhere}/x.db", elsewhere)
    other.stop()
    restored = other.command("db", "restore", str(copy), check=True)
    assert str(elsewhere / "x.db.before") in restored.stdout
    other.start()
    try:
        with other.client() as api:
            messages = all_messages(api)
            assert set(before) <= set(messages)
            session = next(iter(messages.values()))["session_id"]
            assert api.post(f"/sessions/{session}/messages", json={"content": "and on"}).status_code == 201
    finally:
        other.stop()


def test_nothing_is_put_in_the_place_of_a_database_that_is_used(server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    server.command("db", "backup", str(copy), check=True)
    with server.client() as api:
        session = api.post("/sessions", json={"title": "later"}).json()["id"]
        refused = server.command("db", "restore", str(copy))
        assert_one_line_and_a_hint(refused, "Stop the server first")
        assert api.get(f"/sessions/{session}").status_code == 200
    assert server.stop() == 0
    server.command("db", "restore", str(copy), check=True)
    server.start()
    with server.client() as api:
        assert api.get(f"/sessions/{session}").status_code == 404


def test_what_is_no_copy_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    ai_agent(tmp_path, "db", "upgrade")
    database = tmp_path / "data" / "ai-agent.db"
    before = database.read_bytes()
    (tmp_path / "garbage.db").write_text("not a database at all")
    sqlite3.connect(tmp_path / "empty.db").close()
    ai_agent(tmp_path, "db", "backup", "newer.db")
    with sqlite3.connect(tmp_path / "newer.db") as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.close()
    for name, words in {
        "nowhere.db": "no copy",
        "garbage.db": "no copy",
        "empty.db": "no copy",
        "newer.db": "newer than the code",
    }.items():
        assert_one_line_and_a_hint(ai_agent(tmp_path, "db", "restore", name), name, words)
    assert database.read_bytes() == before


def test_a_copy_is_told_to_need_the_key_of_its_secrets(tmp_path: Path) -> None:
    ai_agent(tmp_path, "keys", "create")
    made = ai_agent(tmp_path, "db", "backup", "copy.db")
    assert (made.returncode, "secret.key" in made.stdout) == (0, True)


def test_a_copy_that_cannot_be_made_says_so(tmp_path: Path, postgres_url: str) -> None:
    assert_one_line_and_a_hint(ai_agent(tmp_path, "db", "backup", "copy.db"), "copy.db")
    ai_agent(tmp_path, "db", "upgrade")
    assert_one_line_and_a_hint(ai_agent(tmp_path, "db", "backup", "nowhere/copy.db"), "nowhere")
    assert not list(tmp_path.glob("copy.db*"))
    on_postgresql = {"AI_AGENT_DATABASE_URL": postgres_url}
    assert_one_line_and_a_hint(ai_agent(tmp_path, "db", "backup", "copy.db", **on_postgresql), "pg_dump")
    assert_one_line_and_a_hint(ai_agent(tmp_path, "db", "restore", "copy.db", **on_postgresql), "pg_restore")


def test_the_way_that_is_documented_for_postgresql_gives_everything_back(postgres_url: str, tmp_path: Path) -> None:
    first, second = create_database(postgres_url), create_database(postgres_url)
    server = Server(first, tmp_path)
    with written(server) as answered:
        before = list(answered)
        dump = [str(POSTGRES / "pg_dump"), "--format=custom", f"--file={tmp_path}/ai-agent.dump", first]
        subprocess.run(dump, check=True)
    server.stop()
    restore = [str(POSTGRES / "pg_restore"), "--no-owner", f"--dbname={second}", f"{tmp_path}/ai-agent.dump"]
    subprocess.run(restore, check=True)
    again = Server(second, tmp_path)
    try:
        with again.client() as api:
            assert set(before) <= set(all_messages(api))
        assert again.command("db", "check").returncode == 0
    finally:
        again.stop()
