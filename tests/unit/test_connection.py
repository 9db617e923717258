"""A socket's conversation: times, limits, and clients that are slow."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from ai_agent.api.websocket import connection, errors, writer
from ai_agent.api.websocket.errors import LimitReached
from ai_agent.api.websocket.event_handlers import HANDLERS
from ai_agent.domain.channels import Retention
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import NewEvent
from ai_agent.domain.frames import Call
from ai_agent.realtime.event_log import BUFFERED_EVENTS
from ai_agent.realtime.memory_log import MemoryLog
from tests.socket_wire import TOPIC, Wire, wired


def talking(test: Callable[[Wire], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), wired(MemoryLog(lambda _: Retention(10_000, 3600)), **settings) as wire:
            await test(wire)

    asyncio.run(run())


def news(count: int, size: int = 10) -> list[NewEvent]:
    return [NewEvent.of("news", {"text": "x" * size}) for _ in range(count)]


async def subscribed(wire: Wire, **more: Any) -> None:
    """To a channel that has an event, and so an epoch."""
    await wire.log.append(TOPIC, news(1))
    await wire.connect()
    wire.send({"t": "subscribe", "ch": TOPIC, **more})
    assert [frame["t"] for frame in await wire.until("live")] == ["subscribed", "live"]


async def ending(wire: Wire) -> list[Any]:
    """The last frames: what was said, `bye`, and the code."""
    frames = await wire.until("closed")
    return [(frame["t"], frame.get("code")) for frame in frames if frame["t"] != "event"]


def test_who_does_not_connect_in_time_is_told_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.05)

    async def test(wire: Wire) -> None:
        assert await ending(wire) == [("error", "not_connected"), ("bye", 4411), ("closed", 4411)]

    talking(test)


def test_who_has_connected_is_not_closed_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.05)

    async def test(wire: Wire) -> None:
        await wire.connect()
        await asyncio.sleep(0.1)
        wire.send({"t": "ping", "id": 1})
        assert await wire.receive() == {"t": "pong", "id": 1}

    talking(test)


def test_no_conversation_is_older_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "AGE_SECONDS", 0.05)

    async def test(wire: Wire) -> None:
        await wire.connect()
        assert await ending(wire) == [("bye", 4420), ("closed", 4420)]

    talking(test)


async def answers_when(ready: asyncio.Event, *_: object) -> None:
    await ready.wait()
    raise LimitReached("No, but answered")


def test_who_is_let_go_gets_the_answer_to_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wire: Wire) -> None:
        ready = asyncio.Event()
        monkeypatch.setitem(HANDLERS, Call, partial(answers_when, ready))
        await wire.connect()
        wire.send({"t": "call", "method": "message.create", "id": 2})
        wire.connection.drain(0.05)
        assert await wire.receive() == {"t": "drain", "after_ms": 50, "reason": "deploy"}
        asyncio.get_running_loop().call_later(0.2, ready.set)
        assert await ending(wire) == [("error", "limit"), ("bye", 4420), ("closed", 4420)]

    talking(test)


def test_who_is_let_go_does_not_wait_for_an_answer_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FLUSH_SECONDS", 0.05)

    async def test(wire: Wire) -> None:
        ready = asyncio.Event()
        monkeypatch.setitem(HANDLERS, Call, partial(answers_when, ready))
        await wire.connect()
        wire.send({"t": "call", "method": "message.create", "id": 2})
        wire.connection.drain(0)
        assert await ending(wire) == [("drain", None), ("bye", 4420), ("closed", 4420)]
        ready.set()

    talking(test)


def test_who_has_not_said_hello_is_let_go_without_a_word_before() -> None:
    async def test(wire: Wire) -> None:
        wire.connection.drain(0)
        assert await ending(wire) == [("bye", 4420), ("closed", 4420)]

    talking(test)


def test_a_client_that_answers_pings_is_asked_again_and_one_that_does_not_is_closed() -> None:
    async def test(wire: Wire) -> None:
        await wire.connect()
        for _ in range(3):
            assert await wire.receive() == {"t": "ping"}
            wire.send({"t": "pong"})
        assert await ending(wire) == [("ping", None), ("bye", 4415), ("closed", 4415)]

    talking(test, ws_ping_seconds=0.02, ws_pong_seconds=0.1)


def test_a_client_that_takes_nothing_is_closed_and_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(writer, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(connection, "FLUSH_SECONDS", 0.05)

    async def test(wire: Wire) -> None:
        await subscribed(wire)
        wire.takes.clear()
        await wire.log.append(TOPIC, news(3))
        assert await ending(wire) == [("bye", 4421), ("closed", 4421)]

    talking(test)


def test_answers_that_nobody_takes_are_bounded() -> None:
    async def test(wire: Wire) -> None:
        await wire.connect()
        wire.takes.clear()
        # One is on its way, and a thousand may wait.
        for number in range(writer.QUEUED_FRAMES + 2):
            wire.connection.refuse(ValueError(), number)
        wire.takes.set()
        assert (await ending(wire))[-2:] == [("bye", 4421), ("closed", 4421)]

    talking(test)


def test_a_slow_client_is_told_everything_when_it_goes_on() -> None:
    """What it did not take is left in the log, so nothing piles up here."""

    async def test(wire: Wire) -> None:
        await subscribed(wire)
        await wire.log.append(TOPIC, news(1))
        wire.takes.clear()
        assert [frame["seq"] for frame in await wire.until("event")] == [2]
        for _ in range(5):
            await wire.log.append(TOPIC, news(BUFFERED_EVENTS // 2 - 100))
        wire.takes.set()
        seqs = [2] + [(await wire.receive())["seq"] for _ in range(5 * (BUFFERED_EVENTS // 2 - 100))]
        assert seqs == list(range(2, len(seqs) + 2))

    talking(test)


def test_a_client_that_stays_behind_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(writer, "BEHIND_SECONDS", 0.1)

    async def test(wire: Wire) -> None:
        await subscribed(wire)
        await wire.log.append(TOPIC, news(1))

        monkeypatch.setattr(wire.takes, "is_set", lambda: False)
        monkeypatch.setattr(wire.takes, "wait", lambda: asyncio.sleep(0.005))
        for _ in range(4):
            await wire.log.append(TOPIC, news(BUFFERED_EVENTS))
            await asyncio.sleep(0.03)
        assert (await ending(wire))[-2:] == [("bye", 4421), ("closed", 4421)]

    talking(test)


def test_commands_of_one_channel_are_done_in_order() -> None:
    async def test(wire: Wire) -> None:
        await wire.connect()
        for number in range(20):
            wire.send({"t": "subscribe", "ch": TOPIC, "id": number}, {"t": "unsubscribe", "ch": TOPIC, "id": number})
        heard = [(await wire.receive())["t"] for _ in range(40)]
        kinds = [kind for kind in heard if kind != "live"]
        assert kinds[:20] == ["subscribed", "unsubscribed"] * 10

    talking(test)


def test_a_crash_of_ours_is_told_with_an_id_and_the_conversation_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wire: Wire) -> None:
        await wire.connect()

        async def crash(*_: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(wire.connection.rooms.channels, "history", crash)
        wire.send({"t": "history", "id": 5, "ch": TOPIC, "since": {"seq": 0}})
        error = await wire.receive()
        assert (error["code"], error["status"], error["id"], error["correlation_id"]) == (
            "internal_error",
            500,
            5,
            "c1",
        )
        assert "secret" not in str(error)
        wire.send({"t": "ping"})
        assert await wire.receive() == {"t": "pong"}

    talking(test)


def test_a_client_that_leaves_leaves_nothing_behind() -> None:
    async def test(wire: Wire) -> None:
        await subscribed(wire)
        assert len(wire.connection.rooms.manager.connections) == 1
        wire.leave()
        while wire.connection.rooms.manager.connections:
            await asyncio.sleep(0.01)
        assert TOPIC not in wire.log._subscribers  # type: ignore[attr-defined]

    talking(test)


def test_what_was_sent_behind_a_refused_connect_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wire: Wire) -> None:
        done: list[object] = []
        crashes: list[object] = []
        monkeypatch.setattr(errors.log, "error", lambda *told, **_: crashes.append(told))

        async def full(connection: connection.Connection) -> None:
            raise LimitReached("You have up to 0 connections")

        async def call(*asked: object) -> None:
            done.append(asked)

        monkeypatch.setattr(wire.connection.rooms.manager, "add", full)
        monkeypatch.setitem(HANDLERS, Call, call)
        wire.send({"t": "connect", "token": "good"}, {"t": "call", "method": "message.create", "id": 2})
        assert await ending(wire) == [("error", "limit"), ("bye", 4430), ("closed", 4430)]
        await asyncio.sleep(0.05)
        assert (done, crashes) == ([], [])

    talking(test)


def test_a_second_token_is_not_tried_behind_a_refused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wire: Wire) -> None:
        wire.send({"t": "connect", "token": "bad"}, {"t": "connect", "token": "good"})
        assert await ending(wire) == [("error", "authentication_error"), ("bye", 4401), ("closed", 4401)]
        assert not wire.connection.is_open

    talking(test)


@pytest.mark.parametrize("start", ["now\n", "last:5\n", "earliest\n", "last:", "Now", ""])
def test_a_start_that_is_none_is_the_clients_fault(start: str) -> None:
    async def test(wire: Wire) -> None:
        await wire.connect()
        wire.send({"t": "subscribe", "id": 1, "ch": TOPIC, "from": start})
        error = await wire.receive()
        assert (error["code"], error["field"], error["id"]) == ("bad_frame", "from", 1)

    talking(test)


def test_a_pong_with_an_id_is_answered_too() -> None:
    async def test(wire: Wire) -> None:
        await wire.connect()
        wire.send({"t": "pong", "id": 7}, {"t": "pong"}, {"t": "ping", "id": 8})
        assert [await wire.receive() for _ in range(2)] == [
            {"t": "reply", "id": 7, "data": None},
            {"t": "pong", "id": 8},
        ]

    talking(test)


def test_a_client_that_comes_back_with_all_its_channels_leaves_the_database_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(wire: Wire) -> None:
        asking = 0

        async def check(*_: object) -> tuple[str, ...]:
            nonlocal asking
            asking += 1
            try:
                await asyncio.sleep(0.001)
                if asking > 10:
                    raise ServiceUnavailable("No connection of the database is free")
            finally:
                asking -= 1
            return ()

        monkeypatch.setattr(wire.connection.rooms.channels._access, "check", check)
        resume = [{"ch": f"topic:{number}", "epoch": "", "seq": 0} for number in range(100)]
        wire.send({"t": "connect", "token": "good", "resume": resume})
        assert all(entry["recovered"] for entry in (await wire.receive())["resumed"])

    talking(test)
