"""What holds for every route: entity tags and preconditions, MessagePack, methods."""

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest

from tests.model_server import ModelServer

MSGPACK = "application/x-msgpack"
MODEL = {"provider": "openai", "model": "m"}

Resource = tuple[str, dict[str, Any]]


@pytest.fixture
def session(api: httpx.Client) -> Resource:
    made = api.post("/sessions", json={"title": "a", "metadata": {"b": 1, "a": [1, 2]}}).json()
    return f"/sessions/{made['id']}", {"title": "b"}


@pytest.fixture
def message(api: httpx.Client, session: Resource) -> Resource:
    made = api.post(f"{session[0]}/messages", json={"content": "x"}).json()
    return f"/messages/{made['id']}", {"content": "y"}


@pytest.fixture
def agent(api: httpx.Client) -> Resource:
    name = uuid.uuid4().hex
    return f"/agents/{api.post('/agents', json={'name': name}).json()['id']}", {"name": name, "description": "d"}


@pytest.fixture(params=["session", "message", "agent"])
def resource(request: pytest.FixtureRequest) -> Resource:
    found: Resource = request.getfixturevalue(request.param)
    return found


def test_a_resource_has_a_tag_and_is_not_sent_again_to_who_has_it(api: httpx.Client, resource: Resource) -> None:
    path, change = resource
    first = api.get(path)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    unchanged = api.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    assert "x-correlation-id" in unchanged.headers
    assert api.get(path, headers={"If-None-Match": "*"}).status_code == 304
    assert api.head(path, headers={"If-None-Match": tag}).status_code == 304
    assert api.patch(path, json=change).headers["etag"] != tag
    assert api.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_the_answer_to_a_write_has_the_tag_of_the_next_read(api: httpx.Client) -> None:
    made = api.post("/sessions", json={"metadata": {"b": 1, "a": 2}})
    path = f"/sessions/{made.json()['id']}"
    assert made.headers["etag"] == api.get(path).headers["etag"]
    for method in ("PATCH", "PUT"):
        changed = api.request(method, path, json={})
        assert changed.headers["etag"] == api.get(path).headers["etag"]


def test_stored_json_comes_back_as_it_was_given(api: httpx.Client) -> None:
    """One tag, one text: no number is rewritten and no name moves, wherever it is kept."""
    metadata = '{"z":1e300,"a":-0.0,"m":[1e-7,1.50,100,18446744073709551616,1e20],"b":{"y":null,"x":" é"}}'
    made = api.post("/sessions", content=f'{{"metadata":{metadata}}}'.encode())
    path = f"/sessions/{made.json()['id']}"
    read = api.get(path)
    assert (read.content, read.headers["etag"]) == (made.content, made.headers["etag"])
    assert api.patch(path, json={"metadata": {"new": 1}}).json()["metadata"] == made.json()["metadata"] | {"new": 1}
    heavy = api.post("/sessions", json={"metadata": {"b": [1e300] * 2700}})
    patched = api.patch(f"/sessions/{heavy.json()['id']}", json={"title": "x"})
    assert (patched.status_code, len(patched.content) < 20_000) == (200, True)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_stale_tag_changes_nothing(api: httpx.Client, resource: Resource, method: str) -> None:
    path, change = resource
    stale = api.get(path).headers["etag"]
    current = api.patch(path, json=change)
    body = None if method == "DELETE" else change
    for tag in (stale, f"W/{current.headers['etag']}", '"no-tag"', "garbage"):
        refused = api.request(method, path, json=body, headers={"If-Match": tag})
        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
    assert api.get(path).json() == current.json()
    tags = f'"17", {current.headers["etag"]}'
    assert api.request(method, path, json=body, headers={"If-Match": tags}).status_code in {200, 204}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_precondition_on_what_is_not_there_is_not_found(api: httpx.Client, method: str) -> None:
    body: object = None if method == "DELETE" else {}
    answer = api.request(method, f"/sessions/{uuid.uuid4()}", json=body, headers={"If-Match": '"1"'})
    assert answer.status_code == 404


def test_any_state_will_do_for_a_star(api: httpx.Client, resource: Resource) -> None:
    assert api.patch(resource[0], json=resource[1], headers={"If-Match": "*"}).status_code == 200


def test_of_many_writers_with_one_tag_one_wins(api: httpx.Client, resource: Resource) -> None:
    path, change = resource
    tag = api.get(path).headers["etag"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.patch(path, json=change, headers={"If-Match": tag}), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 7]


def test_a_posted_message_and_a_run_change_the_tags_of_what_they_touch(api: httpx.Client, model: ModelServer) -> None:
    session = api.post("/sessions", json={}).json()["id"]
    agent = api.post("/agents", json={"name": uuid.uuid4().hex, "model_config": MODEL}).json()["id"]
    paths = f"/sessions/{session}", f"/agents/{agent}"
    tags = [api.get(path).headers["etag"] for path in paths]
    answer = api.post(f"/agents/{agent}/execute", json={"message": "x", "session_id": session}).json()
    assert all(api.get(path).headers["etag"] != tag for path, tag in zip(paths, tags, strict=True))
    execution = api.get(f"/executions/{answer['execution_id']}")
    known = {"If-None-Match": execution.headers["etag"]}
    assert api.get(f"/executions/{answer['execution_id']}", headers=known).status_code == 304


def test_a_header_that_is_given_in_several_lines_is_a_list(api: httpx.Client, session: Resource) -> None:
    tag = api.get(session[0]).headers["etag"]
    lines = [("If-None-Match", '"other"'), ("If-None-Match", tag), ("If-None-Match", '"third"')]
    assert api.get(session[0], headers=lines).status_code == 304


# MessagePack


def test_what_is_asked_for_in_messagepack_is_the_same_in_it(api: httpx.Client, session: Resource) -> None:
    path = session[0]
    plain, packed = api.get(path), api.get(path, headers={"Accept": MSGPACK})
    assert packed.headers["content-type"] == MSGPACK
    assert "Accept" in packed.headers["vary"]
    assert msgspec.msgpack.decode(packed.content) == plain.json()
    assert packed.headers["etag"] != plain.headers["etag"]
    changed = api.patch(path, json={"title": "z"}, headers={"If-Match": packed.headers["etag"]})
    assert changed.status_code == 200
    page = msgspec.msgpack.decode(api.get("/sessions", headers={"Accept": MSGPACK}).content)
    assert page["items"][0]["metadata"] == {"b": 1, "a": [1, 2]}


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (f"{MSGPACK}, application/json;q=0.9", MSGPACK),
        (f"{MSGPACK};q=0.5, application/json", "application/json"),
        (f"{MSGPACK};q=0", "application/json"),
        ("*/*", "application/json"),
        (f"text/html, {MSGPACK};q=0.1", MSGPACK),
        ("", "application/json"),
    ],
)
def test_the_preferred_representation_is_sent(api: httpx.Client, accept: str, media_type: str) -> None:
    assert api.get("/sessions", headers={"Accept": accept}).headers["content-type"] == media_type


def test_errors_are_packed_too(api: httpx.Client) -> None:
    answer = api.get(f"/sessions/{uuid.uuid4()}", headers={"Accept": MSGPACK})
    assert answer.status_code == 404
    assert msgspec.msgpack.decode(answer.content)["code"] == "not_found"


def test_integers_that_messagepack_cannot_say_become_floats(api: httpx.Client) -> None:
    """And stop neither the resource nor its page nor an error from being read."""
    big = 2**64
    headers = {"Accept": MSGPACK}
    made = api.post(
        "/sessions", json={"user_id": "big", "metadata": {"b": big, "l": [-(2**63) - 1, 1]}}, headers=headers
    )
    assert made.status_code == 201
    metadata = {"b": float(big), "l": [-float(2**63), 1]}
    for answer in (made, api.get(f"/sessions/{msgspec.msgpack.decode(made.content)['id']}", headers=headers)):
        assert msgspec.msgpack.decode(answer.content)["metadata"] == metadata
    page = api.get("/sessions", params={"user_id": "big"}, headers=headers)
    assert msgspec.msgpack.decode(page.content)["items"][0]["metadata"] == metadata
    refused = api.post("/sessions", json={"title": big}, headers=headers)
    assert (refused.status_code, msgspec.msgpack.decode(refused.content)["code"]) == (422, "validation_error")


def packed(api: httpx.Client, value: object) -> httpx.Response:
    content = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
    return api.post("/sessions", content=content, headers={"Content-Type": MSGPACK})


def test_bodies_come_in_messagepack(api: httpx.Client) -> None:
    wanted = {"title": "Grüße", "metadata": {"n": 1, "f": 0.5, "l": [None, True]}}
    made = packed(api, wanted)
    assert made.status_code == 201
    assert {name: made.json()[name] for name in wanted} == wanted


def test_bad_fields_in_messagepack_are_named(api: httpx.Client) -> None:
    refused = packed(api, {"title": 5, "colour": "red", "metadata": {"a": "\0"}})
    assert {e["field"] for e in refused.json()["validation_errors"]} == {"title", "colour"}
    assert packed(api, {"metadata": {"a": "\0"}}).json()["validation_errors"][0]["field"] == "metadata.a"


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


@pytest.mark.parametrize(
    "content",
    [
        b"\xc1",
        b"\x81",
        b"",
        b"{}",
        nested(5000),
        msgspec.msgpack.encode({"metadata": {"b": b"x"}}),
        msgspec.msgpack.encode({"metadata": {"f": float("nan")}}),
        msgspec.msgpack.encode({"metadata": {1: 2}}),
        msgspec.msgpack.encode({"metadata": {"e": msgspec.msgpack.Ext(5, b"x")}}),
        b"\x81\xa1\xff\xc0",
    ],
    ids=["reserved", "cut", "empty", "json", "deep", "binary", "nan", "number as name", "extension", "no utf-8"],
)
def test_what_json_cannot_say_is_malformed(api: httpx.Client, content: bytes) -> None:
    refused = packed(api, content)
    assert (refused.status_code, refused.json()["code"]) in {(400, "malformed_request"), (422, "validation_error")}
    if content != b"{}":
        assert refused.status_code == 400


# Methods


def test_options_names_all_methods_of_a_path(api: httpx.Client, session: Resource) -> None:
    for path, methods in {
        session[0]: "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
        "/sessions": "GET, HEAD, OPTIONS, POST",
        "/health": "GET, HEAD, OPTIONS",
    }.items():
        answer = api.options(path)
        assert (answer.status_code, answer.headers["allow"]) == (204, methods)


@pytest.mark.parametrize("call", [lambda api: api.get("/sessions"), lambda api: api.get("/nothing/here")])
def test_every_answer_has_the_security_headers(
    api: httpx.Client, call: Callable[[httpx.Client], httpx.Response]
) -> None:
    headers = call(api).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_json_in_and_out_is_utf_8(api: httpx.Client) -> None:
    made = api.post("/sessions", content=json.dumps({"title": "Grüße"}, ensure_ascii=False).encode())
    assert "Grüße".encode() in made.content


def test_in_development_an_answer_tells_where_its_time_went(api: httpx.Client) -> None:
    assert set(timing(api.get("/sessions"))) == {"auth", "db", "limit"}
    assert set(timing(api.get("/health/live"))) == set()
    answer = api.post("/sessions", json={}, headers={"Idempotency-Key": uuid.uuid4().hex})
    assert 0 < timing(answer)["db"] < float(answer.headers["x-process-time"]) * 1000


def timing(answer: httpx.Response) -> dict[str, float]:
    parts = [part.split(";dur=") for part in answer.headers.get("server-timing", "").split(", ") if part]
    return {name: float(duration) for name, duration in parts}
