"""HTTP tools as they are registered, their secrets, and tools that are called without a model."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import Server
from tests.http_peer import Peer, answers
from tests.integration.test_agents import dump, execute
from tests.integration.test_identity import Caller
from tests.integration.test_tools import errors

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
CANARY = "canary-header-5d3c1b"


@pytest.fixture(scope="module")
def server(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    started = Server(database_url, folder, AI_AGENT_OUTBOUND_ALLOW="127.0.0.0/8", AI_AGENT_LOG_LEVEL="debug")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def peer(database_url: str) -> Iterator[Peer]:
    """One for each database: what it got is of this one's tests."""
    started = Peer()
    yield started
    started.close()


def body(url: str, method: str = "GET", **config: Any) -> dict[str, Any]:
    name = f"http-{uuid.uuid4().hex[:12]}"
    return {"name": name, "kind": "http", "schema": SCHEMA, "config": {"method": method, "url": url, **config}}


def make(api: httpx.Client, url: str, method: str = "GET", **config: Any) -> str:
    response = api.post("/tools", json=body(url, method, **config))
    assert response.status_code == 201, response.text
    return f"/tools/{response.json()['id']}"


def invoke(api: httpx.Client, address: str, **arguments: Any) -> dict[str, Any]:
    response = api.post(f"{address}/invoke", json={"arguments": arguments})
    assert response.status_code == 200, response.text
    return dict(response.json())


# What is registered


def test_an_http_tool_comes_back_as_it_was_written_but_for_its_secrets(api: httpx.Client, peer: Peer) -> None:
    written = body(
        f"{peer.url}/a/{{city}}?n={{days}}",
        "POST",
        headers={"X-Key": CANARY, "Accept": "text/plain"},
        body={"d": "{days}", "t": "in {city}"},
        timeout_seconds=2.5,
    )
    made = api.post("/tools", json=written)
    assert made.status_code == 201, made.text
    tool = made.json()
    shown = written["config"] | {"headers": {"X-Key": "***", "Accept": "***"}}
    assert {name: tool[name] for name in written} == written | {"config": shown}
    assert api.get(f"/tools/{tool['id']}").json() == tool
    assert [one["id"] for one in api.get("/tools", params={"kind": "http", "limit": 1}).json()["items"]] == [tool["id"]]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema": None}, "schema"),
        ({"config": {}}, "config.method"),
        ({"config": {"method": "GET", "url": "https://{city}.com"}}, "config.url"),
        ({"config": {"method": "GET", "url": "https://e.com/{town}"}}, "config.url"),
        ({"config": {"method": "POST", "url": "https://e.com", "body": ["{town}"]}}, "config.body"),
        ({"config": {"method": "GET", "url": "https://e.com", "headers": {"X": "a\r\nY: b"}}}, "config.headers.X"),
        ({"config": {"method": "GET", "url": "https://e.com", "headers": {"X": "***"}}}, "config.headers.X"),
        ({"config": {"method": "GET", "url": "http://169.254.169.254/{city}"}}, "config.url"),
        ({"config": {"method": "GET", "url": "http://[::1]/{city}"}}, "config.url"),
        ({"config": {"method": "GET", "url": "http://user:pass@e.com/"}}, "config.url"),
        ({"config": {"method": "GET", "url": "file:///etc/passwd"}}, "config.url"),
    ],
)
def test_a_tool_that_could_not_be_called_is_refused_by_field(
    api: httpx.Client, change: dict[str, Any], field: str
) -> None:
    refused = errors(api.post("/tools", json=body("https://e.com") | change))
    assert field in refused


def test_secrets_are_kept_by_their_sign_and_go_to_no_other_place(api: httpx.Client, peer: Peer) -> None:
    address = make(api, f"{peer.url}/kept", headers={"X-Key": "one", "X-Other": "two"})

    def sent() -> dict[str, str | None]:
        invoke(api, address, city="x")
        headers = peer.got("/kept")[-1].headers
        return {name: headers.get(name) for name in ("x-key", "x-other")}

    assert sent() == {"x-key": "one", "x-other": "two"}
    assert api.patch(address, json={"config": {"url": f"{peer.url}/kept?x=1"}}).status_code == 200
    assert api.patch(address, json={"description": "d"}).status_code == 200
    assert sent() == {"x-key": "one", "x-other": "two"}
    config = {"method": "GET", "url": f"{peer.url}/kept", "headers": {"X-Key": "***"}}
    replaced = api.put(address, json=body("x") | {"config": config})
    assert replaced.json()["config"] == config
    assert sent() == {"x-key": "one", "x-other": None}
    changed = api.patch(address, json={"config": {"headers": {"X-Key": "new", "X-Other": "three"}}})
    assert changed.json()["config"]["headers"] == {"X-Key": "***", "X-Other": "***"}
    assert sent() == {"x-key": "new", "x-other": "three"}
    assert api.patch(address, json={"config": {"headers": {"X-Other": None}}}).status_code == 200
    assert sent() == {"x-key": "new", "x-other": None}
    elsewhere = {"config": {"url": f"http://127.0.0.2:{peer.port}/kept"}}
    assert list(errors(api.patch(address, json=elsewhere))) == ["config.headers.X-Key"]
    elsewhere["config"]["headers"] = {"X-Key": "known"}  # type: ignore[assignment]  # written anew, it may go there
    assert api.patch(address, json=elsewhere).status_code == 200
    client = {"kind": "client", "config": None}
    assert api.patch(address, json=client).json()["config"] == {}
    back = {"kind": "http", "config": {"method": "GET", "url": f"{peer.url}/kept", "headers": {"X-Key": "***"}}}
    assert list(errors(api.patch(address, json=back))) == ["config.headers.X-Key"]


def test_a_secret_is_nowhere_to_be_read(server: Server, api: httpx.Client, peer: Peer, database_url: str) -> None:
    peer.at("/echo", answers("no", 500))
    key = {"Idempotency-Key": str(uuid.uuid4())}
    written = body(f"{peer.url}/echo", headers={"Authorization": f"Bearer {CANARY}"})
    made = api.post("/tools", json=written, headers=key)
    assert api.post("/tools", json=written, headers=key).json() == made.json()
    address = f"/tools/{made.json()['id']}"
    invoked = invoke(api, address, city="x")
    assert peer.got("/echo")[-1].headers["authorization"] == f"Bearer {CANARY}"
    wrong = {"config": {"headers": {"Authorization": f"{CANARY}\n"}}}
    refused = [api.patch(address, json=wrong), api.patch(address, json={"config": {"headers": [CANARY]}})]
    shown = [invoked, *(one.text for one in (made, *refused, api.get(address), api.get("/tools")))]
    assert [one.status_code for one in refused] == [422, 422]
    assert CANARY not in str(shown)
    assert CANARY not in server.log.read_text()
    stored = dump(database_url)
    assert made.json()["name"] in stored
    assert CANARY not in stored


def test_an_address_inside_is_refused_unless_the_operator_allows_it(
    tmp_path_factory: pytest.TempPathFactory, peer: Peer
) -> None:
    folder = tmp_path_factory.mktemp("shut")
    shut = Server(f"sqlite:///{folder}/test.db", folder)
    try:
        with shut.client() as api:
            assert list(errors(api.post("/tools", json=body(f"{peer.url}/inside")))) == ["config.url"]
            # A name that only a resolver knows to lead inside; the machine's own is in no public network.
            address = make(api, f"http://{peer_name()}:{peer.port}/inside")
            assert invoke(api, address, city="x")["is_error"]
    finally:
        shut.stop()
    assert peer.got("/inside") == []


def peer_name() -> str:
    """A name that this machine resolves to itself, and that is not known for it."""
    import socket

    name = socket.gethostname()
    try:
        socket.gethostbyname(name)
    except OSError:
        pytest.skip("This machine has no name of its own")
    return name


# Calls without a model


def test_a_tool_is_called_with_arguments_that_fit(api: httpx.Client, peer: Peer) -> None:
    peer.at("/weather/Kyoto", answers({"sun": True}))
    address = make(api, f"{peer.url}/weather/{{city}}?days={{days}}")
    response = api.post(f"{address}/invoke", json={"arguments": {"city": "Kyoto", "days": 3}})
    assert '"tool_invoke"' in response.headers["ratelimit-policy"]
    answer = response.json()
    assert 0 <= answer.pop("duration_ms") < 2000
    assert answer == {"output": {"sun": True}, "is_error": False, "truncated": False}
    assert peer.got("/weather/Kyoto")[0].target == "/weather/Kyoto?days=3"


def test_arguments_that_do_not_fit_are_refused_each_by_its_path(api: httpx.Client, peer: Peer) -> None:
    address = f"{make(api, f'{peer.url}/unasked')}/invoke"
    refused = errors(api.post(address, json={"arguments": {"city": 5, "days": "x"}}))
    assert set(refused) == {"arguments.city", "arguments.days"}
    assert list(errors(api.post(address, json={"arguments": {}}))) == ["arguments"]
    assert list(errors(api.post(address, json={"arguments": []}))) == ["arguments"]
    assert list(errors(api.post(address, json={"city": "x"}))) == ["city"]
    assert peer.got("/unasked") == []


def test_a_tool_that_fails_is_an_answer_that_says_so(api: httpx.Client, peer: Peer) -> None:
    failing = make(api, peer.at("/failing", answers("Out of tea", 418)))
    assert invoke(api, failing, city="x")["output"] == "The server answered 418: Out of tea"
    hanging = make(api, peer.hangs("/hanging"), timeout_seconds=0.3)
    answer = invoke(api, hanging, city="x")
    assert (answer["output"], answer["is_error"]) == ("The tool took longer than 0.3 s", True)
    assert 300 <= answer["duration_ms"] < 1500
    assert peer.was_left("/hanging")


def test_an_output_that_is_too_long_is_cut_and_marked(api: httpx.Client, peer: Peer) -> None:
    answer = invoke(api, make(api, peer.at("/long", answers("y" * 300_000))), city="x")
    assert (answer["truncated"], answer["is_error"]) == (True, False)
    assert answer["output"].endswith("[cut: the output was longer than 262144 bytes]")


def test_builtin_tools_are_called_too_and_ask_nobody(api: httpx.Client) -> None:
    wanted = {"name": "calculator", "kind": "builtin", "requires_approval": True}
    address = f"/tools/{api.post('/tools', json=wanted).json()['id']}"
    assert invoke(api, address, expression="6 * 7")["output"] == {"result": 42}
    assert invoke(api, address, expression="1/0") | {"duration_ms": 0} == {
        "output": "Division by zero",
        "is_error": True,
        "truncated": False,
        "duration_ms": 0,
    }


def test_what_cannot_be_called_is_a_conflict(api: httpx.Client, peer: Peer) -> None:
    client = api.post("/tools", json={"name": "theirs", "kind": "client", "schema": SCHEMA}).json()["id"]
    off = make(api, f"{peer.url}/off")
    assert api.patch(off, json={"enabled": False}).status_code == 200
    for address in (f"/tools/{client}", off):
        refused = api.post(f"{address}/invoke", json={"arguments": {"city": "x"}})
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert api.post(f"/tools/{uuid.uuid4()}/invoke", json={}).status_code == 404
    assert peer.got("/off") == []


def test_a_call_may_take_longer_than_other_requests_and_keeps_nobody_waiting(api: httpx.Client, peer: Peer) -> None:
    """Other writes go on meanwhile, also where the database has one writer."""
    address = make(api, peer.hangs("/slow"), "POST", timeout_seconds=4)
    key = {"Idempotency-Key": str(uuid.uuid4())}
    with ThreadPoolExecutor() as pool:
        call = pool.submit(api.post, f"{address}/invoke", json={"arguments": {"city": "x"}}, headers=key)
        peer.wait("/slow")
        begun = time.monotonic()
        assert api.post("/sessions", json={}).status_code == 201
        assert time.monotonic() - begun < 1
        answer = call.result()
    assert (answer.status_code, answer.json()["output"]) == (200, "The tool took longer than 4 s")


# Repeats


def test_a_repeat_is_given_the_first_ones_output(api: httpx.Client, peer: Peer) -> None:
    address = make(api, peer.at("/once", answers({"n": 1})), "POST")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    wanted = {"arguments": {"city": "x"}}
    first = api.post(f"{address}/invoke", json=wanted, headers=key)
    peer.at("/once", answers({"n": 2}))
    again = api.post(f"{address}/invoke", json=wanted, headers=key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert len(peer.got("/once")) == 1
    other = api.post(f"{address}/invoke", json={"arguments": {"city": "y"}}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_repeat_of_what_is_being_done_waits_a_second_and_is_told_so(api: httpx.Client, peer: Peer) -> None:
    address = make(api, peer.hangs("/busy"), "POST", timeout_seconds=3)
    key = {"Idempotency-Key": str(uuid.uuid4())}
    wanted = {"arguments": {"city": "x"}}
    with ThreadPoolExecutor() as pool:
        call = pool.submit(api.post, f"{address}/invoke", json=wanted, headers=key)
        peer.wait("/busy")
        begun = time.monotonic()
        busy = api.post(f"{address}/invoke", json=wanted, headers=key)
        assert (busy.status_code, busy.json()["code"]) == (409, "idempotency_in_progress")
        assert 0.9 < time.monotonic() - begun < 2
        first = call.result()
    assert api.post(f"{address}/invoke", json=wanted, headers=key).json() == first.json()
    assert len(peer.got("/busy")) == 1


def test_a_refused_call_leaves_its_key_for_another_try(api: httpx.Client, peer: Peer) -> None:
    address = make(api, f"{peer.url}/again", "POST")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    wanted = {"arguments": {"city": "x"}}
    assert api.patch(address, json={"enabled": False}).status_code == 200
    assert api.post(f"{address}/invoke", json=wanted, headers=key).status_code == 409
    assert api.patch(address, json={"enabled": True}).status_code == 200
    assert api.post(f"{address}/invoke", json=wanted, headers=key).status_code == 200


@pytest.mark.parametrize(("method", "calls"), [("GET", 2), ("POST", 1)])
def test_a_call_whose_server_was_killed_is_made_again_only_if_that_is_safe(
    server: Server, peer: Peer, database_url: str, method: str, calls: int
) -> None:
    path = f"/killed-{method}"
    key = {"Idempotency-Key": str(uuid.uuid4())}
    wanted = {"arguments": {"city": "x"}}
    with server.client() as api, ThreadPoolExecutor() as pool:
        address = make(api, peer.hangs(path), method)
        call = pool.submit(api.post, f"{address}/invoke", json=wanted, headers=key)
        peer.wait(path)
        server.process.kill()
        server.process.wait()
        with pytest.raises(httpx.HTTPError):
            call.result()
    peer.at(path, answers({"done": True}))
    server.start()
    with server.client() as api:
        early = api.post(f"{address}/invoke", json=wanted, headers=key)
        assert (early.status_code, early.json()["code"]) == (409, "idempotency_in_progress")
        execute(database_url, "UPDATE idempotency_keys SET lease_until = created_at WHERE lease_until IS NOT NULL")
        late = api.post(f"{address}/invoke", json=wanted, headers=key)
        assert late.status_code == 200
        assert "idempotency-replayed" not in late.headers
        if method == "GET":
            assert late.json()["output"] == {"done": True}
        else:
            assert late.json()["output"] == "The call was interrupted: whether it took effect is not known"
        assert late.json()["is_error"] is (method == "POST")
        assert api.post(f"{address}/invoke", json=wanted, headers=key).json() == late.json()
    assert len(peer.got(path)) == calls


# search_messages


def test_messages_are_searched_in_all_sessions_of_the_owner_alone(server: Server) -> None:
    scopes = ("sessions:write", "tools:write", "tools:invoke")
    with Caller(server, "searcher", *scopes) as mine, Caller(server, "neighbour", *scopes) as other:
        texts = ["The <b>cherries</b> bloom in April", "Cherries & plums", "Nothing of the kind", "cherries again"]
        sessions = [mine.http.post("/sessions", json={}).json()["id"] for _ in range(2)]
        for number, text in enumerate(texts):
            session = sessions[number % 2]
            assert mine.http.post(f"/sessions/{session}/messages", json={"content": text}).status_code == 201
        theirs = other.http.post("/sessions", json={}).json()["id"]
        other.http.post(f"/sessions/{theirs}/messages", json={"content": "cherries of a neighbour"})
        address = f"/tools/{mine.http.post('/tools', json={'name': 'search_messages', 'kind': 'builtin'}).json()['id']}"

        def found(**arguments: Any) -> list[str]:
            return [one["snippet"] for one in invoke(mine.http, address, **arguments)["output"]["messages"]]

        assert found(query="CHERRIES") == [texts[3], texts[1], texts[0]]
        assert found(query="cherries", limit=1) == [texts[3]]
        assert found(query="cherries -again", session_id=sessions[1]) == [texts[1]]
        assert found(query="cherries", session_id=theirs) == []
        (one,) = invoke(mine.http, address, query="plums")["output"]["messages"]
        assert (one["session_id"], one["role"], set(one)) == (
            sessions[1],
            "user",
            {"message_id", "session_id", "role", "created_at", "snippet"},
        )
        wrong = invoke(mine.http, address, query="-cherries")
        assert (wrong["is_error"], wrong["output"].partition(":")[0]) == (True, "query")
        assert invoke(mine.http, address, query="xx", session_id="x")["output"] == "session_id is no id of a session"
        refused = errors(mine.http.post(f"{address}/invoke", json={"arguments": {"query": "x", "limit": 21}}))
        assert set(refused) == {"arguments.query", "arguments.limit"}
