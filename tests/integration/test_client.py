"""The Python client against a real server: what it hears is what happened, once and in order, whatever breaks."""

import asyncio
import signal
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal

import httpx
import pytest

from ai_agent.client import Client, Event, Gap, Live, RealtimeClient, Refused, Unreachable
from ai_agent.domain.event_data import EndedData, QueuedData, TokenData
from ai_agent.domain.events import TERMINAL
from ai_agent.domain.frames import Since
from tests.conftest import KEY, Server
from tests.model_server import ModelServer, Reply
from tests.round_trips import RoundTrips
from tests.runs import events, make_agent, start
from tests.servers import free_port

LONG = Reply("word " * 60, delay=0.05)
"""Three seconds."""


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One is enough: of the two databases a client notices nothing."""
    return f"sqlite:///{tmp_path_factory.mktemp('db')}/test.db"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, KEY) as client:
        yield client


@pytest.fixture
def relay(server: Server) -> Iterator[RoundTrips]:
    """Between client and server: what breaks."""
    with RoundTrips(server.port) as relay:
        yield relay


def url(relay: RoundTrips) -> str:
    return f"http://127.0.0.1:{relay.port}"


def using(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(55):
            await test()

    asyncio.run(run())


def text(heard: list[Event]) -> str:
    return "".join(event.data.text for event in heard if isinstance(event.data, TokenData))


def assert_all_that_was_told(heard: list[Event], api: httpx.Client) -> None:
    told = [(event["seq"], event["eid"]) for event in events(api, heard[0].ch.partition(":")[2])]
    assert [(event.seq, str(event.eid)) for event in heard] == told
    assert heard[-1].type in TERMINAL


async def whole_run(client: RealtimeClient, execution_id: str) -> list[Event]:
    heard: list[Event] = []
    async with client.subscribe(f"execution:{execution_id}", from_="earliest") as notices:
        async for notice in notices:
            assert not isinstance(notice, Gap)
            if isinstance(notice, Event):
                heard.append(notice)
                if notice.type in TERMINAL:
                    break
    return heard


# Streams


def test_an_execution_is_a_stream_of_typed_events(client: Client, api: httpx.Client) -> None:
    heard = list(client.execute(make_agent(api), "hello"))
    assert isinstance(heard[0].data, QueuedData)
    assert isinstance(heard[-1].data, EndedData)
    assert text(heard) == "You said: hello"
    assert_all_that_was_told(heard, api)


def test_an_execution_is_followed_from_its_beginning_or_behind_an_event(client: Client, api: httpx.Client) -> None:
    execution_id = start(api, make_agent(api), "hello")["id"]
    heard = list(client.follow(execution_id))
    assert_all_that_was_told(heard, api)
    assert list(client.follow(execution_id, heard[1].position)) == heard[2:]
    assert list(client.follow(execution_id, Since(2))) == heard[2:]


def test_a_stream_that_is_cut_again_and_again_is_whole(
    relay: RoundTrips, api: httpx.Client, model: ModelServer
) -> None:
    model.script(LONG)
    heard, outages = [], 0

    def count() -> None:
        nonlocal outages
        outages += 1

    with Client(url(relay), KEY) as client:
        for event in client.execute(make_agent(api), "hello", on_outage=count):
            heard.append(event)
            if event.seq in (1, 10, 20, 30):
                relay.cut()
    assert outages == 4
    assert text(heard) == LONG.text
    assert_all_that_was_told(heard, api)


def test_a_stream_outlives_its_server(client: Client, server: Server, api: httpx.Client, model: ModelServer) -> None:
    model.script(LONG)
    heard = []
    for event in client.execute(make_agent(api), "hello"):
        heard.append(event)
        if event.seq == 10:
            server.stop(signal.SIGKILL)
            server.start(server.port)
    assert_all_that_was_told(heard, api)
    assert [event.type for event in heard].count("execution.restarted") == 1


def test_what_the_server_refuses_is_told_in_its_words(client: Client, server: Server) -> None:
    with pytest.raises(Refused) as refused:
        client.call("GET", "/agents/nonsense")
    assert (refused.value.status, refused.value.code) == (404, "not_found")
    with pytest.raises(Refused, match="key or token"), Client(server.url, "sk-wrong") as stranger:
        list(stranger.execute(str(uuid.uuid4()), "hello"))


def test_a_server_that_stays_away_is_given_up() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(Unreachable, match=nobody), Client(nobody, "key", patience=0.5) as client:
        list(client.follow("x"))
    assert 0.5 <= time.monotonic() - began < 10


def test_url_and_key_are_found_where_the_chat_finds_them(
    server: Server, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_AGENT_URL", server.url)
    monkeypatch.delenv("AI_AGENT_API_KEY", raising=False)
    monkeypatch.setenv("AI_AGENT_DATA_DIR", str(server.folder))
    with pytest.raises(Refused), Client() as client:
        client.call("GET", "/agents")
    (server.folder / "admin.key").write_text(KEY)
    with Client() as client:
        assert client.call("GET", "/agents", params={"limit": 1})["items"]
    (server.folder / "admin.key").unlink()
    monkeypatch.setenv("AI_AGENT_API_KEY", KEY)
    with Client() as client:
        assert client.call("GET", "/agents", params={"limit": 1})["items"]


# Sockets


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_run_is_begun_heard_and_read_again_over_one_socket(
    server: Server, api: httpx.Client, codec: Literal["json", "msgpack"]
) -> None:
    agent_id = make_agent(api)

    async def test() -> None:
        async with RealtimeClient(server.url, KEY, codec=codec) as client:
            run = await client.call("agent.execute", agent_id=agent_id, message="hello")
            heard = await whole_run(client, run["id"])
            page = await client.history(f"execution:{run['id']}", limit=3)
            assert page.events == heard[:3]
            rest = await client.history(f"execution:{run['id']}", page.events[-1].position, limit=200)
            assert page.events + rest.events == heard
        assert text(heard) == "You said: hello"
        assert_all_that_was_told(heard, api)

    using(test)


def test_sockets_that_are_cut_again_and_again_lose_nothing(
    relay: RoundTrips, api: httpx.Client, model: ModelServer
) -> None:
    agent_id = make_agent(api)
    model.script(*[LONG] * 5)
    runs = [start(api, agent_id)["id"] for _ in range(5)]
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(0.25):
            relay.cut()

    async def test() -> None:
        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        outages: list[float] = []
        try:
            async with RealtimeClient(url(relay), KEY, on_outage=lambda: outages.append(time.monotonic())) as client:
                heard = await asyncio.gather(*(whole_run(client, run) for run in runs))
        finally:
            over.set()
            disturbing.join()
        assert len(outages) >= 3
        for run in heard:
            assert text(run) == LONG.text
            assert_all_that_was_told(run, api)

    using(test)


def test_a_subscription_outlives_its_server(server: Server, api: httpx.Client, model: ModelServer) -> None:
    model.script(LONG)
    execution_id = start(api, make_agent(api))["id"]

    async def test() -> None:
        async with RealtimeClient(server.url, KEY) as client:
            listening = asyncio.create_task(whole_run(client, execution_id))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            await asyncio.to_thread(server.start, server.port)
            heard = await listening
        assert_all_that_was_told(heard, api)
        assert len(heard) > 10

    using(test)


def test_only_what_is_wanted_is_heard(server: Server, api: httpx.Client) -> None:
    execution_id = start(api, make_agent(api), "hello")["id"]

    async def test() -> None:
        async with RealtimeClient(server.url, KEY) as client:
            channel = f"execution:{execution_id}"
            newest = (await whole_run(client, execution_id))[-1].seq
            async with client.subscribe(channel, from_="earliest", types=["execution.completed"]) as notices:
                assert [type(await anext(notices)), type(await anext(notices))] == [Event, Live]
            async with client.subscribe(channel, from_="last:2") as notices:
                last = [await anext(notices), await anext(notices)]
                assert [notice.seq for notice in last if isinstance(notice, Event)] == [newest - 1, newest]

    using(test)
