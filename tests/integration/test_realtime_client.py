"""The real-time client on a socket, before a server that does what real ones do around restarts."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from ai_agent.client import Closed, Event, Gap, Live, RealtimeClient, Refused, SubscriptionEnded, Unreachable
from ai_agent.client.subscription import MOST_WAITING, Subscription
from tests.scripted_socket import Peer, Script, ScriptedSocket, resumed
from tests.servers import free_port

TOPIC = "topic:a"


def using(*scripts: Script, test: Callable[[ScriptedSocket], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), ScriptedSocket(*scripts).serving() as server:
            await test(server)

    asyncio.run(run())


async def numbers(subscription: Subscription, count: int) -> list[int]:
    """Of so many events."""
    seqs: list[int] = []
    while len(seqs) < count:
        notice = await anext(subscription)
        seqs += [notice.seq] if isinstance(notice, Event) else []
    return seqs


async def idle(peer: Peer) -> None:
    """Until the client goes."""
    await peer.hear("nothing")


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_both_codecs_carry_the_same(codec: Literal["json", "msgpack"]) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.subscribed())["from"] == "earliest"
        await peer.events(TOPIC, 1, 2)
        await peer.say("live", ch=TOPIC, seq=2)
        call = await peer.hear("call")
        await peer.say("reply", id=call["id"], data={"params": call["params"]})
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        async with RealtimeClient(server.url, "key", codec=codec) as client:
            async with client.subscribe(TOPIC, from_="earliest") as notices:
                assert await numbers(notices, 2) == [1, 2]
                assert await anext(notices) == Live(TOPIC, 2)
            assert client.user == "ada"
            assert await client.call("agent.execute", message="hi") == {"params": {"message": "hi"}}

    using(script, test=test)


def test_a_cut_connection_is_taken_up_where_it_was() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.subscribed()
        await peer.events(TOPIC, 1, 2)
        peer.cut()

    async def second(peer: Peer) -> None:
        await peer.welcome(resumed(TOPIC, 2))
        assert peer.connect["resume"] == [{"ch": TOPIC, "epoch": "e", "seq": 2}]
        await peer.events(TOPIC, 2, 3)
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        outages: list[float] = []
        async with RealtimeClient(server.url, "key", on_outage=lambda: outages.append(time.monotonic())) as client:
            notices = client.subscribe(TOPIC)
            assert await numbers(notices, 3) == [1, 2, 3]
        assert len(outages) == 1

    using(first, second, test=test)


def test_the_server_says_when_to_come_back() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say("bye", code=4420, reason="draining", reconnect=True, after_ms=700)
        await peer.close(4420)

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.subscribed()
        await peer.events(TOPIC, 1)
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        async with RealtimeClient(server.url, "key") as client:
            await numbers(client.subscribe(TOPIC), 1)
        assert 0.7 <= server.opened[1] - server.opened[0] < 1.5

    using(first, second, test=test)


def test_a_server_that_has_gone_silent_is_given_up() -> None:
    async def silent(peer: Peer) -> None:
        await peer.welcome(ping_ms=200, pong_ms=100)
        await peer.subscribed()
        await idle(peer)

    async def lively(peer: Peer) -> None:
        await peer.welcome(resumed(TOPIC, 0), ping_ms=200, pong_ms=100)
        for _ in range(4):
            await asyncio.sleep(0.2)
            await peer.say("ping")
            await peer.hear("pong")
        await peer.events(TOPIC, 1)
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        async with RealtimeClient(server.url, "key") as client:
            assert await numbers(client.subscribe(TOPIC), 1) == [1]
        assert len(server.opened) == 2
        assert 0.3 <= server.opened[1] - server.opened[0] < 2.5

    using(silent, lively, test=test)


def test_a_server_that_is_not_there_is_waited_for() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await idle(peer)

    async def test() -> None:
        server = ScriptedSocket(script)
        with pytest.raises(Unreachable, match=server.url):
            await RealtimeClient(server.url, "key", patience=0).__aenter__()
        client = RealtimeClient(server.url, "key")
        connecting = asyncio.create_task(client.__aenter__())
        await asyncio.sleep(0.2)
        async with server.serving():
            await connecting
            await client.close()

    asyncio.run(test())


def test_a_refusal_is_final_and_told_in_the_words_of_the_server() -> None:
    async def script(peer: Peer) -> None:
        connect = await peer.hear("connect")
        await peer.say(
            "error", id=connect["id"], code="authentication_error", status=401, message="No such key", retryable=False
        )
        await peer.say("bye", code=4401, reason="unauthenticated", reconnect=False)
        await peer.close(4401)

    async def test(server: ScriptedSocket) -> None:
        with pytest.raises(Closed, match=r"No such key \(4401\)"):
            await RealtimeClient(server.url, "key").__aenter__()

    using(script, test=test)


def test_whoever_reads_or_waits_hears_that_the_connection_is_closed_for_good() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.subscribed()
        await peer.events(TOPIC, 1)
        await peer.hear("call")
        await peer.close(4451)

    async def test(server: ScriptedSocket) -> None:
        async with RealtimeClient(server.url, "key") as client:
            notices = client.subscribe(TOPIC)
            with pytest.raises((Closed, Unreachable)):
                await client.call("x")
            assert await numbers(notices, 1) == [1]
            for late in (notices, client.subscribe("topic:b")):
                with pytest.raises(Closed, match="4451"):
                    await anext(late)
            with pytest.raises(Closed, match="4451"):
                await client.call("x")

    using(script, test=test)


def test_a_provider_is_asked_for_each_token() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say("auth_expiring", in_ms=1000)
        assert (await peer.hear("auth"))["token"] == "t2"
        await peer.close(4419)

    async def second(peer: Peer) -> None:
        await peer.hear("connect")
        await peer.close(4401)

    async def third(peer: Peer) -> None:
        await peer.welcome()
        assert peer.connect["token"] == "t4"
        await peer.subscribed()
        await peer.events(TOPIC, 1)
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        tokens = iter(["t1", "t2", "t3", "t4"])

        async def provide() -> str:
            return next(tokens)

        async with RealtimeClient(server.url, provide) as client:
            assert await numbers(client.subscribe(TOPIC), 1) == [1]

    using(first, second, third, test=test)


def test_what_the_provider_of_tokens_raises_ends_the_client() -> None:
    async def test(server: ScriptedSocket) -> None:
        async def provide() -> str:
            raise PermissionError("no token")

        with pytest.raises(PermissionError, match="no token"):
            await RealtimeClient(server.url, provide).__aenter__()

    using(test=test)


def test_what_the_server_refuses_is_raised_where_it_was_asked_for() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.hear("subscribe")
        no = {"status": 403, "message": "Not yours", "retryable": False}
        await peer.say("error", id=asked["id"], code="authorization_error", ch=TOPIC, **no)
        call = await peer.hear("call")
        await peer.say("error", id=call["id"], code="unsupported", details={"method": "x"}, **no)
        await peer.subscribed()
        await peer.events(TOPIC, 1)
        await peer.say("unsubscribed", ch=TOPIC, reason="revoked")
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        async with RealtimeClient(server.url, "key") as client:
            with pytest.raises(SubscriptionEnded, match="Not yours"):
                await anext(client.subscribe(TOPIC))
            with pytest.raises(Refused) as refused:
                await client.call("x")
            assert (refused.value.code, refused.value.details) == ("unsupported", {"method": "x"})
            notices = client.subscribe(TOPIC)
            assert await numbers(notices, 1) == [1]
            with pytest.raises(SubscriptionEnded) as ended:
                await anext(notices)
            assert ended.value.reason == "revoked"
            notices.leave()

    using(script, test=test)


def test_a_subscription_that_is_left_ends_on_the_server_and_for_who_reads() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.subscribed()
        assert (await peer.hear("unsubscribe"))["ch"] == TOPIC
        await peer.subscribed(seq=7)
        await peer.events(TOPIC, 8)
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        async with RealtimeClient(server.url, "key") as client:
            notices = client.subscribe(TOPIC)
            with pytest.raises(ValueError, match="already"):
                client.subscribe(TOPIC)
            reading = asyncio.create_task(numbers(notices, 1))
            await asyncio.sleep(0.1)
            notices.leave()
            with pytest.raises((StopAsyncIteration, RuntimeError)):
                await reading
            assert await numbers(client.subscribe(TOPIC), 1) == [8]

    using(script, test=test)


def test_of_a_slow_reader_the_server_keeps_what_comes() -> None:
    async def test() -> None:
        paused = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.subscribed()
            await peer.events(TOPIC, *range(1, MOST_WAITING + 1))
            await peer.hear("unsubscribe")
            paused.set()
            again = await peer.subscribed(seq=MOST_WAITING)
            assert again["since"] == {"epoch": "e", "seq": MOST_WAITING}
            await peer.say("gap", ch=TOPIC, from_=MOST_WAITING + 1, to=MOST_WAITING + 5, reason="trimmed")
            await peer.events(TOPIC, MOST_WAITING + 6)
            await idle(peer)

        async with ScriptedSocket(script).serving() as server, RealtimeClient(server.url, "key") as client:
            notices = client.subscribe(TOPIC)
            await paused.wait()
            assert await numbers(notices, MOST_WAITING) == list(range(1, MOST_WAITING + 1))
            gap = await anext(notices)
            assert gap == Gap(ch=TOPIC, first=MOST_WAITING + 1, last=MOST_WAITING + 5, reason="trimmed")
            assert await numbers(notices, 1) == [MOST_WAITING + 6]

    asyncio.run(test())


def test_history_is_a_page_of_typed_events() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.hear("history")
        assert (asked["ch"], asked["limit"]) == (TOPIC, 2)
        event = {"t": "event", "ch": TOPIC, "seq": 1, "eid": "01900000-0000-7000-8000-000000000001", "ts": 1}
        ids = dict.fromkeys(("execution_id", "session_id", "agent_id"), "01900000-0000-7000-8000-000000000002")
        started = event | {"type": "execution.started", "data": ids | {"attempt": 1}}
        await peer.say("reply", id=asked["id"], data={"epoch": "e", "top": 1, "floor": 1, "events": [started]})
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        async with RealtimeClient(server.url, "key") as client:
            page = await client.history(TOPIC, limit=2)
            assert (page.top, type(page.events[0].data).__name__) == (1, "StartedData")
            assert (page.events[0].position.epoch, page.events[0].position.seq) == ("e", 1)

    using(script, test=test)


def test_what_is_no_frame_ends_the_connection_and_not_the_client() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say("live", ch=7)
        await idle(peer)

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.subscribed()
        await peer.events(TOPIC, 1)
        await idle(peer)

    async def test(server: ScriptedSocket) -> None:
        async with RealtimeClient(server.url, "key") as client:
            assert await numbers(client.subscribe(TOPIC), 1) == [1]

    using(first, second, test=test)


def test_an_address_without_a_socket_is_said_to_be_one() -> None:
    async def test() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        port = free_port()
        async with await asyncio.start_server(answer, "127.0.0.1", port):
            with pytest.raises(Closed, match="no WebSocket"):
                await RealtimeClient(f"http://127.0.0.1:{port}", "key").__aenter__()

    asyncio.run(test())
