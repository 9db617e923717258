"""Filters, bulk operations, forks and exports of sessions, on both databases."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.integration.test_conversations import make
from tests.model_server import ModelServer, Reply

MODEL = {"provider": "openai", "model": "m"}


def titles(api: httpx.Client, **params: Any) -> list[str]:
    page = api.get("/sessions", params={"sort_by": "created_at", "sort_order": "asc", "limit": 100, **params})
    assert page.status_code == 200, page.text
    return [session["title"] for session in page.json()["items"]]


def refused_field(response: httpx.Response) -> str:
    assert (response.status_code, response.json()["code"]) == (422, "validation_error")
    return str(response.json()["validation_errors"][0]["field"])


@pytest.fixture(scope="module")
def described(server: Any) -> None:
    """Sessions whose metadata has members of every kind."""
    documents = {
        "string": {"k": "5"},
        "number": {"k": 5},
        "real": {"k": 5.0, "big": 123456789012345678},
        "small": {"k": 0.00001},
        "true": {"k": True},
        "true text": {"k": "true"},
        "null": {"k": None},
        "list": {"k": ["5"]},
        "object": {"k": {"k": "5"}},
        "colon": {"k": "a:b", "odd key\"'\\.$[0]": "ü"},
        "two": {"k": "5", "l": "x"},
    }
    with server.client() as api:
        for title, metadata in documents.items():
            make(api, "/sessions", title=title, metadata=metadata, user_id="described")


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["k:5"], ["string", "number", "two"]),
        (["k:5.0"], ["real"]),
        (["k:0.00001"], ["small"]),
        (["big:123456789012345678"], ["real"]),
        (["k:true"], ["true", "true text"]),
        (["k:null"], []),
        (["k:a:b"], ["colon"]),
        (["odd key\"'\\.$[0]:ü"], ["colon"]),
        (["k:5", "l:x"], ["two"]),
        (["k:5", "k:6"], []),
        (["missing:"], []),
        (["k:' OR 1=1 --"], []),
    ],
)
def test_sessions_are_filtered_by_members_of_their_metadata(
    api: httpx.Client, pairs: list[str], expected: list[str]
) -> None:
    assert titles(api, user_id="described", metadata=pairs) == expected
    page = api.get("/sessions", params={"user_id": "described", "metadata": pairs, "include_total": True})
    assert page.json()["total"] == len(expected)


@pytest.mark.parametrize("pairs", [["k"], [":v"], [""], ["k:v", "k"], ["k:v"] * 11])
def test_a_filter_that_names_no_member_is_refused(api: httpx.Client, pairs: list[str]) -> None:
    assert refused_field(api.get("/sessions", params={"metadata": pairs})) == "metadata"


def test_pages_keep_a_repeated_filter(api: httpx.Client) -> None:
    for number in range(3):
        make(api, "/sessions", title=str(number), metadata={"a": "1", "b": 2})
    first = api.get("/sessions", params={"metadata": ["a:1", "b:2"], "limit": 2})
    assert len(first.json()["items"]) == 2
    rest = api.get(first.links["next"]["url"].removeprefix("/api/v1"))
    assert len(rest.json()["items"]) == 1
    assert refused_field(api.get("/sessions", params={"metadata": "a:1", "cursor": first.json()["next_cursor"]})) == (
        "cursor"
    )


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("invoice", ["Invoice 1", "my INVOICE"]),
        (" VOICE ", ["Invoice 1", "my INVOICE"]),
        ("СЧЁТ", ["счёт"]),
        ("strasse", ["Straße"]),
        ("0%", ["100%"]),
        ("%%", []),
        ("_o", []),
        ("\\", None),
        ("請求", ["請求書"]),
    ],
)
def test_sessions_are_found_by_a_part_of_their_title(
    api: httpx.Client, search: str, expected: list[str] | None
) -> None:
    if api.get("/sessions", params={"user_id": "titled"}).json()["items"] == []:
        for title in ("Invoice 1", "my INVOICE", "счёт", "Straße", "100%", "請求書", None):
            make(api, "/sessions", title=title, user_id="titled")
    if expected is None:
        assert refused_field(api.get("/sessions", params={"search": search})) == "search"
    else:
        assert titles(api, user_id="titled", search=search) == expected


def test_a_changed_title_is_found_by_what_it_is_now(api: httpx.Client) -> None:
    session = make(api, "/sessions", title="Walrus", user_id="changed")
    api.patch(f"/sessions/{session['id']}", json={"title": "Narwhal"})
    assert titles(api, search="walrus") == []
    assert titles(api, search="NARWHAL") == ["Narwhal"]
    api.patch(f"/sessions/{session['id']}", json={"title": None})
    assert titles(api, search="narwhal") == []


def test_many_sessions_are_made_in_their_order(api: httpx.Client) -> None:
    wanted = [{"title": f" {number} ", "metadata": {"n": number}, "user_id": "bulk"} for number in range(100)]
    response = api.post("/sessions/bulk-create", json=wanted)
    assert response.status_code == 201
    made = response.json()
    assert [(one["title"], one["metadata"]) for one in made] == [(str(n), {"n": n}) for n in range(100)]
    assert api.get(f"/sessions/{made[7]['id']}").json() == made[7]
    assert titles(api, user_id="bulk") == [str(n) for n in range(100)]
    assert titles(api, user_id="bulk", search="99") == ["99"]


def test_one_bad_session_of_many_prevents_all_and_is_named(api: httpx.Client) -> None:
    bad: list[object] = [{"title": "x" * 501}, {"owner_id": "me"}, {"metadata": {"a": "x" * 17_000}}]
    response = api.post("/sessions/bulk-create", json=[{"user_id": "none"}, *bad])
    fields = {error["field"] for error in response.json()["validation_errors"]}
    assert (response.status_code, fields) == (422, {"[1].title", "[2].owner_id", "[3].metadata"})
    assert titles(api, user_id="none") == []


@pytest.mark.parametrize("path", ["/sessions/bulk-create", "/sessions/bulk-delete"])
@pytest.mark.parametrize("body", [[], {}, "x", 5, [{}] * 101])
def test_a_bulk_is_a_list_of_one_to_a_hundred(api: httpx.Client, path: str, body: object) -> None:
    assert refused_field(api.post(path, json=body))


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_many_sessions_are_deleted_with_what_they_hold(api: httpx.Client, method: str) -> None:
    made = api.post("/sessions/bulk-create", json=[{}] * 3).json()
    message = make(api, f"/sessions/{made[0]['id']}/messages", content="x")
    ids = [one["id"] for one in made]
    response = api.request(method, "/sessions/bulk-delete", json=[*ids, ids[0]])
    assert (response.status_code, response.content) == (204, b"")
    assert {api.get(f"/sessions/{one}").status_code for one in ids} == {404}
    assert api.get(f"/messages/{message['id']}").status_code == 404


def test_an_unknown_session_among_many_prevents_all_and_is_named(api: httpx.Client) -> None:
    session, unknown = make(api, "/sessions"), str(uuid4())
    response = api.post("/sessions/bulk-delete", json=[session["id"], unknown, unknown])
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.json()["details"] == {"ids": [unknown]}
    assert api.get(f"/sessions/{session['id']}").status_code == 200
    assert refused_field(api.post("/sessions/bulk-delete", json=[session["id"], "no id"])) == "[1]"


def test_what_runs_in_many_deleted_sessions_is_cancelled(api: httpx.Client, model: ModelServer) -> None:
    agent = make(api, "/agents", name="bulk-deleted", model_config=MODEL)
    sessions = api.post("/sessions/bulk-create", json=[{}] * 2).json()
    model.go_on.clear()
    model.script(*[Reply("one two", pause_after=1)] * 2)
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(api.post, f"/agents/{agent['id']}/execute", json={"message": "x", "session_id": one["id"]})
            for one in sessions
        ]
        deadline = time.monotonic() + 10
        while {api.get(f"/sessions/{one['id']}").json()["status"] for one in sessions} != {"active"}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert api.post("/sessions/bulk-delete", json=[one["id"] for one in sessions]).status_code == 204
        model.go_on.set()
        assert [run.result().status_code for run in running] == [404, 404]
    assert api.get(f"/agents/{agent['id']}").json()["status"] == "idle"


def branched(api: httpx.Client) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """root → a → b, root → c; c is the newest."""
    session = make(api, "/sessions", title="Source", user_id="u", metadata={"m": [1]})
    path = f"/sessions/{session['id']}/messages"
    root = make(api, path, content="root", role="system", metadata={"x": 1})
    a = make(api, path, content="Alpha", tool_calls=[{"id": "1"}])
    b = make(api, path, content="b", role="assistant")
    c = make(api, path, content="c", parent_message_id=root["id"])
    return session, {"root": root, "a": a, "b": b, "c": c}


def messages_of(api: httpx.Client, session: dict[str, Any]) -> list[dict[str, Any]]:
    return list(api.get(f"/sessions/{session['id']}/messages", params={"limit": 200}).json()["items"])


def test_a_fork_copies_the_branch_up_to_a_message(api: httpx.Client) -> None:
    session, tree = branched(api)
    response = api.post(f"/sessions/{session['id']}/fork", json={"from_message_id": tree["b"]["id"]})
    assert response.status_code == 201
    fork = response.json()
    assert (fork["title"], fork["user_id"], fork["metadata"]) == ("Source", "u", {"m": [1]})
    assert (fork["message_count"], fork["status"], fork["id"] != session["id"]) == (3, "idle", True)
    assert api.get(f"/sessions/{fork['id']}").json() == fork
    copied = messages_of(api, fork)
    assert [message["position"] for message in copied] == [1, 2, 3]
    assert [message["parent_message_id"] for message in copied] == [None, copied[0]["id"], copied[1]["id"]]
    assert {message["session_id"] for message in copied} == {fork["id"]}
    for copy, source in zip(copied, (tree["root"], tree["a"], tree["b"]), strict=True):
        assert copy["id"] != source["id"]
        kept = ("role", "content", "metadata", "tool_calls", "agent_id")
        assert [copy[name] for name in kept] == [source[name] for name in kept]
    following = make(api, f"/sessions/{fork['id']}/messages", content="goes on")
    assert (following["position"], following["parent_message_id"]) == (4, copied[2]["id"])
    found = api.get(f"/sessions/{fork['id']}/messages", params={"search": "alpha"}).json()["items"]
    assert [message["id"] for message in found] == [copied[1]["id"]]
    assert messages_of(api, session) == [tree[name] for name in ("root", "a", "b", "c")]


def test_a_fork_copies_up_to_the_newest_message_and_may_have_a_title_of_its_own(api: httpx.Client) -> None:
    session, _ = branched(api)
    fork = make(api, f"/sessions/{session['id']}/fork", title=" Other ")
    assert fork["title"] == "Other"
    assert [message["content"] for message in messages_of(api, fork)] == ["root", "c"]
    assert titles(api, search="other") == ["Other"]
    assert make(api, f"/sessions/{session['id']}/fork", title=None)["title"] is None
    empty = make(api, f"/sessions/{make(api, '/sessions', title='Empty')['id']}/fork")
    assert (empty["title"], empty["message_count"]) == ("Empty", 0)


def test_a_fork_starts_at_a_message_of_its_session(api: httpx.Client) -> None:
    session, _ = branched(api)
    other = make(api, f"/sessions/{make(api, '/sessions')['id']}/messages", content="x")
    for message_id in (other["id"], str(uuid4())):
        response = api.post(f"/sessions/{session['id']}/fork", json={"from_message_id": message_id})
        assert refused_field(response) == "from_message_id"
    assert api.post(f"/sessions/{uuid4()}/fork", json={}).status_code == 404


def test_an_export_is_the_whole_session_as_json_lines(api: httpx.Client, model: ModelServer) -> None:
    session, tree = branched(api)
    path = f"/sessions/{session['id']}"
    agent = make(api, "/agents", name="exported", model_config=MODEL)
    ran = api.post(f"/agents/{agent['id']}/execute", json={"message": "hi\nthere", "session_id": session["id"]})
    assert ran.status_code == 200, ran.text
    api.post(f"{path}/messages/bulk-create", json=[{"content": str(number)} for number in range(100)])
    with api.stream("GET", f"{path}/export") as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.headers["content-disposition"] == f'attachment; filename="session-{session["id"]}.jsonl"'
        lines = [json.loads(line) for line in response.iter_lines()]
    assert [line["type"] for line in lines] == ["session"] + ["message"] * 106 + ["execution"]
    assert lines[0]["data"] == api.get(path).json()
    assert [line["data"] for line in lines[1:-1]] == messages_of(api, session)
    assert lines[1]["data"] == tree["root"]
    assert lines[-1]["data"] == api.get(f"/executions/{ran.json()['execution_id']}").json()


def test_an_export_of_nothing_is_not_found_before_it_begins(api: httpx.Client) -> None:
    response = api.get(f"/sessions/{uuid4()}/export")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
