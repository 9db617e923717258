"""The channels plugin: what application code may rely on, of Litestar's own and of ours alike."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar, post
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.channels.plugin import ChannelsException
from litestar.channels.subscriber import Subscriber
from litestar.di import NamedDependency
from litestar.params import JSONBody

from ai_agent.realtime.event_log import EventLog
from ai_agent.realtime.log_backend import LogBackend
from ai_agent.realtime.memory_log import MemoryLog
from ai_agent.realtime.plugin import RealtimePlugin
from ai_agent.realtime.redis_log import RedisLog
from ai_agent.realtime.sqlite_log import SqliteLog
from ai_agent.storage.redis import connect

NEWS, SPORT = "topic:news", "topic:sport"

Start = Callable[..., Any]
"""Opens a plugin with options for a block."""


def log_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> EventLog:
    if kind == "redis":
        return RedisLog(connect(request.getfixturevalue("valkey").url), uuid.uuid4().hex)
    return MemoryLog() if kind == "memory" else SqliteLog(folder / "events.db")


@pytest.fixture(params=["litestar", "memory", "sqlite", "redis"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    @asynccontextmanager
    async def started(**options: Any) -> AsyncGenerator[ChannelsPlugin, None]:
        options = {"arbitrary_channels_allowed": True} | options
        async with AsyncExitStack() as stack:
            if request.param == "litestar":
                plugin = ChannelsPlugin(MemoryChannelsBackend(history=100), **options)
            else:
                log = log_of(request.param, request, tmp_path)
                await log.open()
                stack.push_async_callback(log.close)
                plugin = RealtimePlugin(LogBackend(log), **options)
            yield await stack.enter_async_context(plugin)

    return started


def using(start: Start, test: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(10), start(**options) as plugin:
            await test(plugin)

    asyncio.run(run())


async def heard(subscriber: Subscriber, count: int) -> list[bytes]:
    events: list[bytes] = []
    async for event in subscriber.iter_events():
        events.append(event)
        if len(events) == count:
            break
    return events


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        ("text", b"text"),
        ('"text"', b'"text"'),
        ("Grüße\n", "Grüße\n".encode()),
        (b'{ "a" : 1 }', b'{ "a" : 1 }'),
        ('{\n"a": 1}', b'{\n"a": 1}'),
        ("{no json", b"{no json"),
        ("[1e999999, NaN]", b"[1e999999, NaN]"),
        (b'{"n":%d}' % 10**30, b'{"n":%d}' % 10**30),
        ("[" * 5000 + "]" * 5000, b"[" * 5000 + b"]" * 5000),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        ([], b"[]"),
        (5, b"5"),
        (None, b"null"),
        ("", b""),
    ],
)
def test_a_subscriber_gets_the_very_bytes_that_were_published(start: Start, data: Any, payload: bytes) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        async with plugin.start_subscription(NEWS) as subscriber:
            plugin.publish(data, NEWS)
            await plugin.wait_published("after it", NEWS)
            assert sorted(await heard(subscriber, 2)) == sorted([payload, b"after it"])

    using(start, test)


def test_messages_of_a_channel_come_in_the_order_in_which_they_were_published(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        async with plugin.start_subscription(NEWS) as subscriber:
            for number in range(400):
                plugin.publish(str(number), NEWS)
            assert await heard(subscriber, 400) == [str(number).encode() for number in range(400)]

    using(start, test)


def test_each_subscriber_gets_the_messages_of_its_channels_and_no_others(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        one, both = await plugin.subscribe(NEWS), await plugin.subscribe([NEWS, SPORT])
        await plugin.wait_published("s", SPORT)
        await plugin.wait_published("n", [NEWS])
        assert await heard(one, 1) == [b"n"]
        assert sorted(await heard(both, 2)) == [b"n", b"s"]
        await plugin.wait_published("to all", (NEWS, SPORT))
        assert (await heard(one, 1), await heard(both, 2)) == ([b"to all"], [b"to all", b"to all"])
        assert (one.qsize, both.qsize) == (0, 0)

    using(start, test)


def test_names_that_differ_in_case_are_different_channels(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        async with plugin.start_subscription("topic:Ann") as ann, plugin.start_subscription("topic:ANN") as other:
            await plugin.wait_published("for Ann", "topic:Ann")
            await plugin.wait_published("for the other", "topic:ANN")
            assert await heard(ann, 1) == [b"for Ann"]
            assert await heard(other, 1) == [b"for the other"]

    using(start, test)


def test_iterating_ends_when_the_last_subscription_does(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        subscriber = await plugin.subscribe([NEWS, SPORT])
        await plugin.unsubscribe(subscriber, NEWS)
        await plugin.wait_published("not for it", NEWS)
        await plugin.wait_published("for it", SPORT)
        assert await heard(subscriber, 1) == [b"for it"]
        await plugin.unsubscribe(subscriber)
        await plugin.wait_published("too late", SPORT)
        assert [event async for event in subscriber.iter_events()] == []

    using(start, test)


def test_a_subscriber_hears_nothing_of_before(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        await plugin.wait_published("before", NEWS)
        async with plugin.start_subscription(NEWS) as subscriber:
            await plugin.wait_published("after", NEWS)
            assert await heard(subscriber, 1) == [b"after"]

    using(start, test)


def test_a_subscriber_may_ask_for_the_newest_messages_of_before(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        async with plugin.start_subscription([NEWS, SPORT]) as first:
            for number in range(5):
                await plugin.wait_published(str(number), NEWS)
            await heard(first, 5)
            async with plugin.start_subscription([NEWS, SPORT], history=2) as subscriber:
                assert await heard(subscriber, 2) == [b"3", b"4"]
                await plugin.wait_published("5", NEWS)
                assert await heard(subscriber, 1) == [b"5"]
                await plugin.put_subscriber_history(subscriber, NEWS)
                assert await heard(subscriber, 6) == [b"0", b"1", b"2", b"3", b"4", b"5"]

    using(start, test)


def test_a_task_in_the_background_handles_what_is_queued_before_its_block_ends(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        handled: list[bytes] = []

        async def handle(event: bytes) -> None:
            await asyncio.sleep(0.01)
            handled.append(event)

        async with plugin.start_subscription(NEWS) as subscriber:
            async with subscriber.run_in_background(handle):
                for number in range(5):
                    await plugin.wait_published(str(number), NEWS)
                while not handled or subscriber.qsize + len(handled) < 4:
                    await asyncio.sleep(0)
                assert subscriber.is_running
            assert handled == [b"0", b"1", b"2", b"3", b"4"]
            assert not subscriber.is_running

    using(start, test)


def test_an_error_in_the_block_stops_the_task_at_once(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        async with plugin.start_subscription(NEWS) as subscriber:
            with pytest.raises(ZeroDivisionError):
                async with subscriber.run_in_background(lambda _: asyncio.sleep(60)):
                    await plugin.wait_published("one", NEWS)
                    raise ZeroDivisionError
            assert not subscriber.is_running

    using(start, test)


def test_an_error_of_the_callback_is_raised_at_the_end_of_the_block(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        async def handle(_: bytes) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with plugin.start_subscription(NEWS) as one, one.run_in_background(handle, join=False):
                await plugin.wait_published("one", NEWS)
                await asyncio.sleep(0.1)

    using(start, test)


def test_only_channels_that_were_declared_can_be_subscribed_to_unless_all_are(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        with pytest.raises(ChannelsException):
            await plugin.subscribe([NEWS, SPORT])
        async with plugin.start_subscription(NEWS) as subscriber:
            await plugin.wait_published("declared", NEWS)
            assert await heard(subscriber, 1) == [b"declared"]

    using(start, test, channels=[NEWS], arbitrary_channels_allowed=False)


def test_subscribers_are_of_the_class_that_the_application_names(start: Start) -> None:
    async def test(plugin: ChannelsPlugin) -> None:
        base: Any = plugin._subscriber_class

        class Loud(base):  # type: ignore[misc]  # of whichever plugin it is
            def put_nowait(self, item: bytes | None) -> bool:
                return bool(super().put_nowait(item and item.upper()))

        plugin._subscriber_class = Loud
        async with plugin.start_subscription(NEWS) as subscriber:
            await plugin.wait_published("one", NEWS)
            assert await heard(subscriber, 1) == [b"ONE"]

    using(start, test)


def test_values_are_encoded_as_the_application_says(start: Start) -> None:
    class Point:
        x = 3

    async def test(plugin: ChannelsPlugin) -> None:
        async with plugin.start_subscription(NEWS) as subscriber:
            await plugin.wait_published({"at": Point()}, NEWS)
            assert msgspec.json.decode((await heard(subscriber, 1))[0]) == {"at": 3}

    using(start, test, type_encoders={Point: lambda point: point.x})


def test_nothing_can_be_published_before_the_start_and_after_the_end(start: Start) -> None:
    async def run() -> None:
        async with start() as plugin:
            plugin.publish("one", NEWS)
        with pytest.raises(RuntimeError):
            plugin.publish("two", NEWS)
        with pytest.raises(RuntimeError):
            await plugin.wait_published("two", NEWS)

    asyncio.run(run())


def test_a_handler_that_asks_for_channels_is_given_the_plugin(start: Start) -> None:
    @post("/news")
    async def tell(channels: NamedDependency[ChannelsPlugin], data: JSONBody[dict[str, Any]]) -> None:
        channels.publish(data, NEWS)

    async def run() -> None:
        async with start() as plugin:
            await plugin.__aexit__(None, None, None)  # The application starts it itself.
            app: Any = Litestar([tell], plugins=[plugin])
            async with app.lifespan(), plugin.start_subscription(NEWS) as subscriber:
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
                    assert (await http.post("/news", json={"a": 1})).status_code == 201
                assert await heard(subscriber, 1) == [b'{"a":1}']

    asyncio.run(run())
