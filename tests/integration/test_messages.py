"""Bulk posts, threads and exact counts of messages, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import Server
from tests.integration.test_conversations import make
from tests.integration.test_sessions import messages_of, refused_field


def post_many(api: httpx.Client, session: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    response = api.post(f"/sessions/{session['id']}/messages/bulk-create", json=messages)
    assert response.status_code == 201, response.text
    return list(response.json())


def test_many_messages_follow_each_other_and_the_newest(api: httpx.Client) -> None:
    session = make(api, "/sessions")
    first = post_many(
        api, session, {"content": "a", "metadata": {"x": 1}, "tool_calls": [{"y": 2}]}, {"content": " b\n"}
    )
    second = post_many(api, session, {"content": "c", "role": "assistant"}, {"content": "d", "role": "tool"})
    stored = messages_of(api, session)
    assert stored == first + second
    assert [message["parent_message_id"] for message in stored] == [None, *(one["id"] for one in stored[:-1])]
    assert [message["position"] for message in stored] == [1, 2, 3, 4]
    assert [message["content"] for message in stored] == ["a", " b\n", "c", "d"]
    after = api.get(f"/sessions/{session['id']}").json()
    assert (after["message_count"], after["last_activity"]) == (4, second[-1]["created_at"])
    assert len(api.get(f"/sessions/{session['id']}/messages", params={"search": "b\n or d"}).json()["items"]) == 2


def test_messages_of_a_bulk_may_have_parents_of_their_own(api: httpx.Client) -> None:
    session = make(api, "/sessions")
    root, other = post_many(api, session, {"content": "root"}, {"content": "other"})
    parent = {"parent_message_id": root["id"]}
    a, b, c = post_many(api, session, {"content": "a", **parent}, {"content": "b"}, {"content": "c", **parent})
    parents = [message["parent_message_id"] for message in (other, a, b, c)]
    assert parents == [root["id"], root["id"], a["id"], root["id"]]


def test_a_bad_parent_of_many_prevents_all_and_is_named(api: httpx.Client) -> None:
    session, foreign = (
        make(api, "/sessions"),
        make(api, f"/sessions/{make(api, '/sessions')['id']}/messages", content="x"),
    )
    path = f"/sessions/{session['id']}/messages/bulk-create"
    good = make(api, f"/sessions/{session['id']}/messages", content="x")["id"]
    parents = [None, foreign["id"], good, str(uuid4())]
    response = api.post(path, json=[{"content": "x", "parent_message_id": parent} for parent in parents])
    fields = [error["field"] for error in response.json()["validation_errors"]]
    assert (response.status_code, fields) == (422, ["[1].parent_message_id", "[3].parent_message_id"])
    assert api.get(f"/sessions/{session['id']}").json()["message_count"] == 1
    assert refused_field(api.post(path, json=[{"content": "x"}, {"content": "x", "role": "king"}])) == "[1].role"
    assert api.post(f"/sessions/{uuid4()}/messages/bulk-create", json=[{"content": "x"}]).status_code == 404


@pytest.mark.parametrize("body", [[], {}, [{"content": "x"}] * 101])
def test_a_bulk_has_one_to_a_hundred_messages(api: httpx.Client, body: object) -> None:
    session = make(api, "/sessions")
    assert refused_field(api.post(f"/sessions/{session['id']}/messages/bulk-create", json=body))
    assert len(post_many(api, session, *[{"content": "x"}] * 100)) == 100


def places(messages: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [(one["content"], one["sibling_index"], one["sibling_count"]) for one in messages]


def test_a_thread_shows_the_way_from_the_root_the_replies_and_their_places(api: httpx.Client) -> None:
    session = make(api, "/sessions")
    path = f"/sessions/{session['id']}/messages"
    root = make(api, path, content="root")
    twins = [make(api, path, content=name, parent_message_id=root["id"]) for name in ("a", "b", "c")]
    replies = [make(api, path, content=name, parent_message_id=twins[1]["id"]) for name in ("d", "e")]
    deeper = make(api, path, content="f", parent_message_id=replies[0]["id"])
    thread = api.get(f"/messages/{twins[1]['id']}/thread").json()
    assert places(thread["ancestors"]) == [("root", 0, 1)]
    assert thread["message"] == twins[1] | {"sibling_index": 1, "sibling_count": 3}
    assert places(thread["replies"]) == [("d", 0, 2), ("e", 1, 2)]
    assert (thread["ancestors_truncated"], thread["replies_truncated"]) == (False, False)
    thread = api.get(f"/messages/{deeper['id']}/thread").json()
    assert places(thread["ancestors"]) == [("root", 0, 1), ("b", 1, 3), ("d", 0, 2)]
    assert thread["replies"] == []


def test_roots_are_siblings_of_their_session_only(api: httpx.Client) -> None:
    for _ in range(2):
        session = make(api, "/sessions")
        path = f"/sessions/{session['id']}/messages"
        first = make(api, path, content="first")
        second = make(api, path, content="second")
        assert api.delete(f"/messages/{first['id']}").status_code == 204
        third = make(api, path, content="third", parent_message_id=second["id"])
        assert api.get(f"/messages/{second['id']}/thread").json()["message"]["sibling_count"] == 1
    fourth = make(api, path, content="fourth")
    assert fourth["parent_message_id"] == third["id"]
    assert api.get(f"/messages/{uuid4()}/thread").status_code == 404


def test_a_long_thread_shows_what_is_nearest(api: httpx.Client) -> None:
    session = make(api, "/sessions")
    chain = [message for _ in range(11) for message in post_many(api, session, *[{"content": "x"}] * 100)]
    last = chain[-1]
    for _ in range(3):
        post_many(api, session, *[{"content": "reply", "parent_message_id": last["id"]}] * 70)
    thread = api.get(f"/messages/{last['id']}/thread").json()
    assert [message["id"] for message in thread["ancestors"]] == [message["id"] for message in chain[-1001:-1]]
    assert (thread["ancestors_truncated"], thread["replies_truncated"]) == (True, True)
    assert [reply["sibling_index"] for reply in thread["replies"]] == list(range(200))
    assert {reply["sibling_count"] for reply in thread["replies"]} == {210}
    assert api.get(f"/messages/{chain[1000]['id']}/thread").json()["ancestors_truncated"] is False


def test_counts_are_exact_after_any_writes_at_once(api: httpx.Client, server: Server) -> None:
    session = make(api, "/sessions")
    path = f"/sessions/{session['id']}/messages"
    old = [message["id"] for message in post_many(api, session, *[{"content": "old"}] * 20)]
    work = [
        *[("POST", path, {"content": "one"}) for _ in range(15)],
        *[("POST", f"{path}/bulk-create", [{"content": "many"}] * 7) for _ in range(10)],
        *[("DELETE", f"/messages/{message}", None) for message in old],
    ]
    work = work[::3] + work[1::3] + work[2::3]
    with ThreadPoolExecutor(12) as pool, server.client(limits=httpx.Limits(max_connections=12)) as client:
        done = list(pool.map(lambda one: client.request(one[0], one[1], json=one[2]).status_code, work))
    assert set(done) == {201, 204}
    stored = messages_of(api, session)
    after = api.get(f"/sessions/{session['id']}").json()
    assert len(stored) == after["message_count"] == 15 + 70
    positions = [message["position"] for message in stored]
    assert positions == sorted(set(positions))
    assert after["last_activity"] >= max(message["created_at"] for message in stored)
    ids = {message["id"] for message in stored}
    assert all(message["parent_message_id"] in ids for message in stored if message["parent_message_id"])
    assert max(positions) == 20 + 15 + 70


def test_an_export_that_nobody_reads_holds_no_connection(empty_postgres: str, tmp_path: Any) -> None:
    server = Server(empty_postgres, tmp_path, AI_AGENT_DB_POOL_SIZE="1")
    try:
        with server.client() as api:
            session = make(api, "/sessions")
            for _ in range(10):  # More than fits into the buffers on the way.
                post_many(api, session, *[{"content": "x" * 20_000}] * 100)
            with server.client() as reader, reader.stream("GET", f"/sessions/{session['id']}/export") as export:
                next(export.iter_bytes(1000))
                for _ in range(3):
                    assert api.get("/sessions").status_code == 200
    finally:
        server.stop()
