"""Runs whose model calls tools of all kinds at once, watched over the WebSocket, on one process and on several."""

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Nodes
from tests.http_peer import Peer, answers
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, events, make_agent, reaches, start
from tests.sockets import MSGPACK, Frame, conversing

SETTINGS = {"AI_AGENT_OUTBOUND_ALLOW": "127.0.0.0/8", "AI_AGENT_EXECUTION_LEASE_SECONDS": "2"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
def api(nodes: Nodes) -> Iterator[httpx.Client]:
    """Asks the first node; who watches listens on the second one."""
    with nodes.first.client() as client:
        yield client


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    started = Peer()
    yield started
    started.close()


@pytest.fixture(autouse=True)
def _nothing_left_to_say(model: ModelServer) -> Iterator[None]:
    yield
    model._script.clear()


@pytest.fixture
def path() -> str:
    return f"/{uuid.uuid4().hex}"


def http_tool(api: httpx.Client, url: str, method: str = "GET", **more: Any) -> str:
    """Answers its name."""
    config = {"method": method, "url": url, **more.pop("config", {})}
    wanted = {"name": f"http-{uuid.uuid4().hex[:12]}", "kind": "http", "schema": SCHEMA, "config": config, **more}
    made = api.post("/tools", json=wanted)
    assert made.status_code == 201, made.text
    return str(wanted["name"])


def client_tool(api: httpx.Client) -> str:
    name = f"client-{uuid.uuid4().hex[:12]}"
    assert api.post("/tools", json={"name": name, "kind": "client", "schema": SCHEMA}).status_code == 201
    return name


def calls_of(api: httpx.Client, execution_id: str) -> dict[str, dict[str, Any]]:
    items = api.get(f"/executions/{execution_id}/tool-calls").json()["items"]
    return {call["call_id"]: call for call in items}


def heard_by(model: ModelServer) -> dict[str, str]:
    """The results that the model heard last, by call."""
    heard = [message for message in model.requests[-1]["messages"] if message["role"] == "tool"]
    return {message["tool_call_id"]: message["content"] for message in heard}


def test_a_run_calls_tools_of_all_kinds_in_one_step_with_an_approval(
    nodes: Nodes, api: httpx.Client, model: ModelServer, peer: Peer, path: str
) -> None:
    both = threading.Barrier(2, timeout=5)

    def together(connection: Any) -> None:
        both.wait()
        answers({"sun": True})(connection)

    weather = http_tool(api, peer.at(f"{path}/Kyoto", together).replace("Kyoto", "{city}"))
    other = http_tool(api, peer.at(f"{path}/other", together))
    book = http_tool(
        api,
        peer.at(f"{path}/book", answers("booked", 201)),
        "POST",
        requires_approval=True,
        config={"body": {"where": "{city}"}, "headers": {"X-Key": "secret-of-book"}},
    )
    failing = http_tool(api, peer.at(f"{path}/fails", answers("Out of tea", 418)))
    ask = client_tool(api)
    asked = {"w": weather, "o": other, "b": book, "f": failing, "c": ask}
    calls = [Call(name, {"city": "Kyoto"}, call_id) for call_id, name in asked.items()]
    calls.append(Call("calculator", {"expression": "6 * 7"}, "k"))
    model.script(Reply("Let me see.", calls=calls), Reply("All done."))
    agent = make_agent(api, tools=[*asked.values(), "calculator"])
    run = start(api, agent)["id"]
    with conversing(nodes.second) as socket:
        assert socket.ask("subscribe", ch=f"execution:{run}", **{"from": "earliest"})["t"] == "subscribed"
        heard: list[Frame] = []
        while not any(each["type"] == "approval.requested" for each in heard):
            heard += socket.events(1)
        assert peer.got(f"{path}/book") == []
        approval = {"execution_id": run, "call_id": "b", "decision": "approve"}
        reaches(api, run, "waiting")
        answer = socket.ask("call", method="execution.approve", params=approval)
        assert answer["t"] == "reply", answer
        delivered = api.post(f"/executions/{run}/tool-results/c", json={"output": {"said": "yes"}})
        assert delivered.status_code == 200, delivered.text
        while heard[-1]["type"] != "execution.completed":
            heard += socket.events(1)
    assert [each["seq"] for each in heard] == list(range(1, len(heard) + 1))
    told = {call_id: [each["type"] for each in heard if each["data"].get("call_id") == call_id] for call_id in asked}
    assert told == {
        "w": ["tool.started", "tool.completed"],
        "o": ["tool.started", "tool.completed"],
        "b": ["approval.requested", "approval.resolved", "tool.started", "tool.completed"],
        "f": ["tool.started", "tool.failed"],
        "c": ["tool.started", "tool.completed"],
    }
    found = calls_of(api, run)
    assert {call_id: call["kind"] for call_id, call in found.items()} == {
        **dict.fromkeys("wobf", "http"),
        "c": "client",
        "k": "builtin",
    }
    assert {call_id: call["output"] for call_id, call in found.items()} == {
        "w": {"sun": True},
        "o": {"sun": True},
        "b": "booked",
        "f": "The server answered 418: Out of tea",
        "c": {"said": "yes"},
        "k": {"result": 42},
    }
    assert {call_id for call_id, call in found.items() if call["is_error"]} == {"f"}
    assert all(found[call_id]["duration_ms"] is not None for call_id in "wobfk")
    (booked,) = peer.got(f"{path}/book")
    assert (booked.body, booked.headers["x-key"]) == (b'{"where":"Kyoto"}', "secret-of-book")
    heard_last = heard_by(model)
    assert heard_last["b"] == "booked"
    assert "The server answered 418: Out of tea" in heard_last["f"]
    assert "secret-of-book" not in str(model.requests)
    assert "secret-of-book" not in str(heard)


def test_the_model_hears_what_is_wrong_with_its_arguments(
    api: httpx.Client, model: ModelServer, peer: Peer, path: str
) -> None:
    tool = http_tool(api, f"{peer.url}{path}/{{city}}")
    model.script(Reply(calls=[Call(tool, {"city": 5}, "a"), Call(tool, {"city": ".."}, "b")]), Reply("Sorry."))
    assert ended(api, start(api, make_agent(api, tools=[tool]))["id"])["status"] == "completed"
    heard = heard_by(model)
    assert "The arguments are wrong: at city: " in heard["a"]
    assert "segment" in heard["b"]


def test_a_disabled_tool_is_not_offered_and_the_run_goes_on(api: httpx.Client, model: ModelServer, peer: Peer) -> None:
    tool = http_tool(api, f"{peer.url}/unused", enabled=False)
    model.script(Reply("I can do without."))
    done = ended(api, start(api, make_agent(api, tools=[tool]))["id"])
    answer = api.get(f"/messages/{done['output_message_id']}").json()
    assert (done["status"], answer["metadata"]["unavailable_tools"]) == ("completed", [tool])
    assert "tools" not in model.requests[-1]


def test_a_run_searches_the_messages_of_its_owner(api: httpx.Client, model: ModelServer) -> None:
    word = uuid.uuid4().hex
    session = api.post("/sessions", json={}).json()["id"]
    api.post(f"/sessions/{session}/messages", json={"content": f"The word is {word}, remember"})
    model.script(Reply(calls=[Call("search_messages", {"query": word}, "a")]), Reply("Found."))
    run = start(api, make_agent(api, tools=["search_messages"]))["id"]
    assert ended(api, run)["status"] == "completed"
    (found,) = calls_of(api, run)["a"]["output"]["messages"]
    assert (found["session_id"], found["snippet"]) == (session, f"The word is {word}, remember")


def test_a_cancel_in_the_middle_of_a_call_leaves_its_server_within_a_second(
    api: httpx.Client, model: ModelServer, peer: Peer, path: str
) -> None:
    tool = http_tool(api, peer.hangs(path), "POST")
    model.script(Reply("Wait. ", calls=[Call(tool, {"city": "x"}, "a")]))
    run = start(api, make_agent(api, tools=[tool]))["id"]
    peer.wait(path)
    begun = time.monotonic()
    assert api.post(f"/executions/{run}/cancel").status_code == 202
    assert peer.was_left(path, 2)
    assert time.monotonic() - begun < 1.5
    assert ended(api, run)["status"] == "cancelled"


@pytest.mark.parametrize(("method", "calls"), [("GET", 2), ("POST", 1)])
def test_a_call_whose_worker_was_killed_is_made_again_only_if_that_is_safe(
    nodes: Nodes, api: httpx.Client, model: ModelServer, peer: Peer, path: str, method: str, calls: int
) -> None:
    tool = http_tool(api, peer.hangs(path), method)
    model.script(Reply(calls=[Call(tool, {"city": "x"}, "a")]), Reply("Done."))
    run = start(api, make_agent(api, tools=[tool]))["id"]
    peer.wait(path)
    worker = nodes.worker or nodes.first
    worker.process.kill()
    worker.process.wait()
    peer.at(path, answers({"done": True}))
    worker.start()
    with nodes.first.client() as again:  # On one process it is the server that was killed.
        assert ended(again, run, 20)["status"] == "completed"
        call = calls_of(again, run)["a"]
        told = [each["type"] for each in events(again, run) if each["type"].startswith("tool.")]
    if method == "GET":
        assert (call["status"], call["output"]) == ("completed", {"done": True})
    else:
        words = "The call was interrupted: whether it took effect is not known"
        assert (call["status"], call["output"]) == ("interrupted", words)
        assert words in heard_by(model)["a"]
    assert len(peer.got(path)) == calls
    assert told[-1] == ("tool.completed" if method == "GET" else "tool.failed")


def test_numbers_that_messagepack_has_not_reach_its_readers(
    nodes: Nodes, api: httpx.Client, model: ModelServer, peer: Peer, path: str
) -> None:
    tool = http_tool(api, peer.at(path, answers({"n": 10**30})))
    model.script(Reply(calls=[Call(tool, {"city": "x"}, "a")]), Reply("Large."))
    run = start(api, make_agent(api, tools=[tool]))["id"]
    ended(api, run)
    with conversing(nodes.second, codec=MSGPACK) as socket:
        socket.ask("subscribe", ch=f"execution:{run}", **{"from": "earliest"})
        told = [frame for frame in socket.until("live") if frame.get("type") == "tool.completed"]
        page = socket.ask("history", ch=f"execution:{run}", since={"seq": 0}, limit=50)
    assert told[0]["data"]["output"] == {"n": 1e30}
    assert page["t"] == "reply", page
