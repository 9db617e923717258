"""The WebSocket end to end: two nodes and a worker, or one process; the same is told wherever a client listens."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest

from ai_agent.client import Event, Live, RealtimeClient, Refused, Subscription
from ai_agent.domain.events import TERMINAL
from ai_agent.domain.frames import Since
from tests import scenarios
from tests.conftest import KEY, Nodes
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, events, make_agent, reaches, start

WORDS = [f"word{number} " for number in range(20)]


@pytest.fixture
def api(nodes: Nodes) -> Iterator[httpx.Client]:
    """Asks the first node."""
    with nodes.first.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _nothing_left_to_say(model: ModelServer) -> Iterator[None]:
    yield
    model._script.clear()


@pytest.fixture(params=["json", "msgpack"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


play = partial(scenarios.play, seconds=30)


@asynccontextmanager
async def listening(url: str, codec: str = "json") -> AsyncIterator[RealtimeClient]:
    async with RealtimeClient(url, KEY, codec=codec) as client:  # type: ignore[arg-type]
        yield client


async def live(subscription: Subscription) -> list[Event]:
    """What was kept, until all that comes is new."""
    found: list[Event] = []
    async for notice in subscription:
        if isinstance(notice, Live):
            return found
        assert isinstance(notice, Event), notice
        found.append(notice)
    raise AssertionError("The subscription ended")


async def until(subscription: Subscription, over: Callable[[Event], bool]) -> list[Event]:
    """Events up to the one with which it is over."""
    found: list[Event] = []
    async for notice in subscription:
        if isinstance(notice, Event):
            found.append(notice)
            if over(notice):
                return found
    raise AssertionError("The subscription ended")


def is_end(event: Event) -> bool:
    return event.type in TERMINAL


def of_type(kind: str) -> Callable[[Event], bool]:
    return lambda event: event.type == kind


def as_told(event: Event) -> tuple[Any, ...]:
    return (event.seq, str(event.eid), event.type, event.ts, msgspec.to_builtins(event.data))


def as_rest(event: dict[str, Any]) -> tuple[Any, ...]:
    return (event["seq"], event["eid"], event["type"], event["ts"], event["data"])


def session(api: httpx.Client, **body: Any) -> str:
    made = api.post("/sessions", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def in_thread(call: Callable[..., Any], *arguments: Any, **more: Any) -> Awaitable[Any]:
    return asyncio.to_thread(call, *arguments, **more)


def test_a_run_is_heard_on_another_node_as_its_pages_tell_it(
    api: httpx.Client, nodes: Nodes, model: ModelServer, codec: str
) -> None:
    agent = make_agent(api)

    async def scenario() -> None:
        model.script(Reply("".join(WORDS), delay=0.01))
        run = await in_thread(start, api, agent)
        async with listening(nodes.second.url, codec) as client:
            heard = await until(client.subscribe(f"execution:{run['id']}", from_="earliest"), is_end)
        rest = await in_thread(events, api, run["id"])
        assert [as_told(event) for event in heard] == [as_rest(event) for event in rest]
        text = "".join(event.data.text for event in heard if event.type == "execution.token")  # type: ignore[union-attr]
        assert text == "".join(WORDS)

    play(scenario)


def test_a_listener_goes_on_behind_its_last_event_on_the_other_node(
    api: httpx.Client, nodes: Nodes, model: ModelServer, codec: str
) -> None:
    agent = make_agent(api)

    async def scenario() -> None:
        model.script(Reply("".join(WORDS), delay=0.05))
        run = await in_thread(start, api, agent)
        channel = f"execution:{run['id']}"
        async with listening(nodes.first.url, codec) as client:
            first = await until(client.subscribe(channel, from_="earliest"), of_type("execution.token"))
        async with listening(nodes.second.url, codec) as client:
            rest = await until(client.subscribe(channel, since=first[-1].position), is_end)
        assert [event.seq for event in first + rest] == list(range(1, rest[-1].seq + 1))

    play(scenario)


def test_a_session_tells_its_messages_changes_and_runs_in_order(
    api: httpx.Client, nodes: Nodes, model: ModelServer, codec: str
) -> None:
    agent, session_id = make_agent(api), session(api, title="first")

    async def scenario() -> None:
        async with listening(nodes.second.url, codec) as client:
            subscription = client.subscribe(f"session:{session_id}", from_="earliest")
            first = await until(subscription, of_type("session.created"))
            assert [event.type for event in first] == ["session.created"]
            said = (await in_thread(api.post, f"/sessions/{session_id}/messages", json={"content": "Hi"})).json()
            await in_thread(api.patch, f"/messages/{said['id']}", json={"content": "Hello"})
            await in_thread(api.patch, f"/sessions/{session_id}", json={"title": "second"})
            told = await until(subscription, lambda e: e.type == "session.updated" and _title(e) == "second")
            changes = [event for event in told if event.type.startswith("message.")]
            assert [event.type for event in changes] == ["message.created", "message.updated"]
            assert [msgspec.to_builtins(event.data)["content"] for event in changes] == ["Hi", "Hello"]
            model.script(Reply("Good day."))
            run = await in_thread(start, api, agent, session_id=session_id)
            told = await until(subscription, is_end)
            assert [e.type for e in told if e.type.startswith("execution.")] == [
                "execution.queued",
                "execution.started",
                "execution.completed",
            ]
            runs = {msgspec.to_builtins(e.data)["execution_id"] for e in told if e.type.startswith("execution.")}
            assert runs == {run["id"]}
            contents = [msgspec.to_builtins(e.data)["content"] for e in told if e.type == "message.created"]
            assert contents == ["x", "Good day."]
            await in_thread(api.delete, f"/sessions/{session_id}")
            await until(subscription, of_type("session.deleted"))

    play(scenario)


def _title(event: Event) -> str | None:
    return str(msgspec.to_builtins(event.data)["title"])


def test_an_agent_tells_its_changes_and_the_starts_and_ends_of_its_runs(
    api: httpx.Client, nodes: Nodes, model: ModelServer
) -> None:
    agent = make_agent(api)

    async def scenario() -> None:
        async with listening(nodes.second.url) as client:
            subscription = client.subscribe(f"agent:{agent}", from_="earliest")
            first = await until(subscription, of_type("agent.created"))
            assert [event.type for event in first] == ["agent.created"]
            await in_thread(api.patch, f"/agents/{agent}", json={"description": "changed"})
            await until(subscription, of_type("agent.updated"))
            model.script(Reply("Good day."))
            await in_thread(start, api, agent)
            told = [e.type for e in await until(subscription, is_end) if e.type.startswith("execution.")]
            assert told == ["execution.started", "execution.completed"]

    play(scenario)


def test_posts_on_both_nodes_are_told_once_each_and_in_the_order_of_their_positions(
    api: httpx.Client, nodes: Nodes
) -> None:
    session_id = session(api)

    async def scenario() -> None:
        async with listening(nodes.second.url) as client:
            subscription = client.subscribe(f"session:{session_id}", types=["message.created"])
            assert await live(subscription) == []
            urls = [(nodes.first, nodes.second)[number % 2].url for number in range(40)]
            headers = {"Authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(headers=headers, timeout=20) as http:
                posts = [
                    http.post(f"{url}/api/v1/sessions/{session_id}/messages", json={"content": str(number)})
                    for number, url in enumerate(urls)
                ]
                assert {answer.status_code for answer in await asyncio.gather(*posts)} == {201}
            told = [msgspec.to_builtins((await until(subscription, lambda _: True))[0].data) for _ in urls]
            assert [message["position"] for message in told] == list(range(1, 41))
            assert sorted(int(message["content"]) for message in told) == list(range(40))

    play(scenario)


def test_an_approval_is_asked_for_and_given_over_the_socket(
    api: httpx.Client, nodes: Nodes, model: ModelServer
) -> None:
    admin = api.post("/admin/keys", json={"name": "careful", "owner_id": f"careful-{id(model)}", "scopes": ["admin"]})
    key = admin.json()["key"]

    async def scenario() -> None:
        with nodes.first.client(key) as own:
            own.post("/tools", json={"name": "calculator", "kind": "builtin", "requires_approval": True})
            model.script(Reply("", calls=[Call("calculator", {"expression": "6*7"})]), Reply("42"))
            agent = make_agent(own, tools=["calculator"])
            async with RealtimeClient(nodes.second.url, key) as client:
                run = await client.call("agent.execute", agent_id=agent, message="What is 6*7?")
                assert run["status"] in {"queued", "running"}
                subscription = client.subscribe(f"session:{run['session_id']}", from_="earliest")
                asked = (await until(subscription, of_type("approval.requested")))[-1]
                call_id = asked.data.call_id  # type: ignore[union-attr]
                await in_thread(reaches, own, run["id"], "waiting")
                await client.call("execution.approve", execution_id=run["id"], call_id=call_id, decision="approve")
                told = [event.type for event in await until(subscription, is_end)]
                assert "approval.resolved" in told
                assert told[-1] == "execution.completed"

    play(scenario)


def test_a_run_is_cancelled_over_the_socket(api: httpx.Client, nodes: Nodes, model: ModelServer) -> None:
    agent = make_agent(api)

    async def scenario() -> None:
        model.script(Reply("".join(WORDS), delay=0.5))
        run = await in_thread(start, api, agent)
        async with listening(nodes.second.url) as client:
            subscription = client.subscribe(f"execution:{run['id']}", from_="earliest")
            await until(subscription, of_type("execution.token"))
            await client.call("execution.cancel", execution_id=run["id"])
            assert (await until(subscription, is_end))[-1].type == "execution.cancelled"
        assert (await in_thread(ended, api, run["id"]))["status"] == "cancelled"

    play(scenario)


def test_a_message_that_is_posted_over_a_socket_is_there_and_is_told(api: httpx.Client, nodes: Nodes) -> None:
    session_id = session(api)

    async def scenario() -> None:
        async with listening(nodes.first.url) as speaking, listening(nodes.second.url) as client:
            subscription = client.subscribe(f"session:{session_id}", types=["message.*"])
            await live(subscription)
            said = await speaking.call("message.create", session_id=session_id, content="Hi")
            told = (await until(subscription, of_type("message.created")))[-1]
            assert msgspec.to_builtins(told.data) == said
            with pytest.raises(Refused) as refused:
                await speaking.call("message.create", session_id=session_id, content="Hi", colour="red")
            assert refused.value.code == "validation_error"
        stored = (await in_thread(api.get, f"/messages/{said['id']}")).json()
        assert stored == said

    play(scenario)


def test_a_page_of_history_is_what_a_subscriber_hears(api: httpx.Client, nodes: Nodes) -> None:
    session_id = session(api)
    for number in range(5):
        api.post(f"/sessions/{session_id}/messages", json={"content": str(number)})

    async def scenario() -> None:
        async with listening(nodes.second.url) as client:
            subscription = client.subscribe(f"session:{session_id}", from_="earliest")
            heard = await until(subscription, lambda event: event.seq == 6)
            page = await client.history(f"session:{session_id}", Since(1), limit=3)
            assert [as_told(event) for event in page.events] == [as_told(event) for event in heard[1:4]]
            assert (page.top, page.floor) == (heard[-1].seq, 1)

    play(scenario)
