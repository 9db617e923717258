"""What a socket is told of a channel: from where, in which order, and of what is missing."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from ai_agent.api.websocket import subscriptions
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import NewEvent
from ai_agent.realtime.event_log import LogPage, Position
from ai_agent.realtime.follow import PAGE_EVENTS
from tests.shaky_log import ShakyLog
from tests.socket_wire import TOPIC, Wire, wired


def talking(test: Callable[[Wire, ShakyLog], Awaitable[None]], events: int = 5) -> None:
    """With a client that has connected, and a channel of so many events."""

    async def run() -> None:
        log = ShakyLog(TOPIC)
        if events:
            await log.append(TOPIC, several(events))
        async with asyncio.timeout(20), wired(log) as wire:
            await wire.connect()
            await test(wire, log)

    asyncio.run(run())


def several(count: int, kind: str = "news.told") -> list[NewEvent]:
    return [NewEvent.of(kind, {"number": number}) for number in range(count)]


def brief(frames: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What is told of each frame, without what is different each time."""
    shown = ("seq", "prev", "from", "to", "reason", "rewound_to", "recovered", "code", "top", "floor")
    return [(frame["t"], {name: frame[name] for name in shown if name in frame}) for frame in frames]


def seqs(frames: Sequence[dict[str, Any]]) -> list[int]:
    return [frame["seq"] for frame in frames if frame["t"] == "event"]


def subscribe(**more: Any) -> dict[str, Any]:
    return {"t": "subscribe", "id": 1, "ch": TOPIC, **more}


def test_a_client_is_told_where_it_is_then_what_is_kept_then_that_it_is_live() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe(**{"from": "earliest"}))
        frames = await wire.until("live")
        place = {"seq": 0, "top": 5, "floor": 1, "recovered": True}
        events = [("event", {"seq": seq}) for seq in range(1, 6)]
        assert brief(frames) == [("subscribed", place), *events, ("live", {"seq": 5})]
        await log.append(TOPIC, several(1))
        assert brief([await wire.receive()]) == [("event", {"seq": 6})]

    talking(test)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, []),
        ({"from": "now"}, []),
        ({"from": "last:2"}, [4, 5]),
        ({"from": "last:0"}, []),
        ({"from": "last:99"}, [1, 2, 3, 4, 5]),
        ({"since": {"seq": 3}}, [4, 5]),
        ({"since": {"seq": 5}}, []),
    ],
)
def test_a_subscription_begins_where_it_is_asked_to(more: dict[str, Any], expected: list[int]) -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe(**more))
        frames = await wire.until("live")
        assert frames[0]["seq"] == (expected[0] - 1 if expected else 5)
        assert seqs(frames) == expected
        assert frames[-1]["seq"] == 5

    talking(test)


def test_more_than_a_page_is_told_in_order_before_it_is_live() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe(**{"from": "earliest"}))
        frames = await wire.until("live")
        assert seqs(frames) == list(range(1, 3 * PAGE_EVENTS + 8))
        assert frames[-1]["seq"] == 3 * PAGE_EVENTS + 7

    talking(test, events=3 * PAGE_EVENTS + 7)


def test_what_comes_while_the_kept_is_read_is_told_behind_it_and_once() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe(**{"from": "earliest"}))
        for _ in range(100):
            await log.append(TOPIC, several(1))
            await asyncio.sleep(0)
        frames: list[dict[str, Any]] = []
        while len(seqs(frames)) < 2 * PAGE_EVENTS + 100:
            frames.append(await wire.receive())
        assert seqs(frames) == list(range(1, 2 * PAGE_EVENTS + 101))
        assert [frame["t"] for frame in frames].count("live") <= 1

    talking(test, events=2 * PAGE_EVENTS)


def test_the_first_event_of_an_empty_channel_names_its_epoch() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe())
        subscribed, live = await wire.until("live")
        assert (subscribed["epoch"], live["seq"]) == ("", 0)
        epoch, _ = await log.append(TOPIC, several(1))
        changed, event = await wire.until("event")
        assert (changed["t"], changed["epoch"], event["seq"]) == ("epoch", epoch, 1)

    talking(test, events=0)


def test_of_trimmed_events_a_client_is_told_and_goes_on_with_what_is_new() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        log.keep(2)
        wire.send(subscribe(since={"seq": 1}))
        assert brief(await wire.until("live")) == [
            ("subscribed", {"seq": 5, "top": 5, "floor": 4, "recovered": False}),
            ("gap", {"from": 2, "to": 5, "reason": "trimmed"}),
            ("live", {"seq": 5}),
        ]

    talking(test)


def test_or_with_the_oldest_that_is_kept() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        log.keep(2)
        wire.send(subscribe(since={"seq": 1}, on_gap="earliest"))
        assert brief(await wire.until("live")) == [
            ("subscribed", {"seq": 3, "top": 5, "floor": 4, "recovered": False}),
            ("gap", {"from": 2, "to": 3, "reason": "trimmed"}),
            ("event", {"seq": 4}),
            ("event", {"seq": 5}),
            ("live", {"seq": 5}),
        ]

    talking(test)


def test_or_not_at_all() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        log.keep(2)
        wire.send(subscribe(since={"seq": 1}, on_gap="fail"))
        error = await wire.receive()
        assert (error["t"], error["id"], error["ch"], error["code"]) == ("error", 1, TOPIC, "conflict")
        assert {name: error["details"][name] for name in ("floor", "top")} == {"floor": 4, "top": 5}
        wire.send(subscribe())
        assert (await wire.receive())["t"] == "subscribed"

    talking(test)


@pytest.mark.parametrize(("on_gap", "first"), [("latest", 6), ("earliest", 1)])
def test_of_a_numbering_that_nobody_knows_a_client_is_told_so(on_gap: str, first: int) -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe(since={"epoch": "unknown", "seq": 3}, on_gap=on_gap))
        frames = await wire.until("live")
        assert brief(frames[:2]) == [
            ("subscribed", {"seq": first - 1, "top": 5, "floor": 1, "recovered": False}),
            ("gap", {"from": 1, "to": first - 1, "reason": "epoch"}),
        ]
        assert seqs(frames) == list(range(first, 6))
        assert frames[0]["epoch"] == log._known(TOPIC).epoch

    talking(test)


def test_a_position_of_an_older_numbering_that_still_holds_is_gone_on_from() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        epoch = log._known(TOPIC).epoch
        log.lose(1)
        wire.send(subscribe(since={"epoch": epoch, "seq": 3}))
        frames = await wire.until("live")
        assert brief(frames) == [
            ("subscribed", {"seq": 3, "top": 4, "floor": 1, "recovered": True}),
            ("epoch", {"seq": 3}),
            ("event", {"seq": 4}),
            ("live", {"seq": 4}),
        ]
        assert frames[0]["epoch"] == frames[1]["epoch"] != epoch

    talking(test)


def test_a_position_behind_its_bound_is_taken_back_to_it() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        epoch = log._known(TOPIC).epoch
        await log.append(TOPIC, log.lose(3)[:1])
        wire.send(subscribe(since={"epoch": epoch, "seq": 5}))
        assert brief(await wire.until("live")) == [
            ("subscribed", {"seq": 2, "top": 3, "floor": 1, "recovered": True}),
            ("epoch", {"seq": 5, "rewound_to": 2}),
            ("event", {"seq": 3}),
            ("live", {"seq": 3}),
        ]

    talking(test)


def test_a_live_client_is_told_of_a_lost_tail_and_what_came_in_its_place() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe())
        await wire.until("live")
        await log.append(TOPIC, several(2))
        eids = [(await wire.receive())["eid"] for _ in range(2)]
        again = log.lose(1)
        log.reconnect()
        await log.append(TOPIC, again)
        await log.append(TOPIC, several(1))
        changed, *events = [await wire.receive() for _ in range(3)]
        assert brief([changed, *events]) == [
            ("epoch", {"seq": 7, "rewound_to": 6}),
            ("event", {"seq": 7}),
            ("event", {"seq": 8}),
        ]
        assert events[0]["eid"] == eids[1]

    talking(test)


def test_hidden_events_make_the_next_one_name_the_last_that_was_shown() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe(types=["message.*", "exact"]))
        await wire.until("live")
        kinds = ["message.created", "news", "exactly", "message.deleted", "exact", "news"]
        for kind in kinds:
            await log.append(TOPIC, several(1, kind))
        assert brief([await wire.receive() for _ in range(3)]) == [
            ("event", {"seq": 6}),
            ("event", {"seq": 9, "prev": 6}),
            ("event", {"seq": 10}),
        ]

    talking(test)


def test_hidden_events_before_the_first_are_no_gap() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        await log.append(TOPIC, several(1, "message.created"))
        wire.send(subscribe(since={"seq": 2}, types=["message.*"]))
        frames = await wire.until("live")
        assert brief(frames)[1:] == [("event", {"seq": 6, "prev": 2}), ("live", {"seq": 6})]

    talking(test)


def test_news_that_get_lost_are_read_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe())
        await wire.until("live")
        log.mute = True
        await log.append(TOPIC, several(2))
        log.mute = False
        await log.append(TOPIC, several(1))
        assert [(await wire.receive())["seq"] for _ in range(3)] == [6, 7, 8]
        log.mute = True
        await log.append(TOPIC, several(2))
        log.deliver_late(backwards=True)
        assert [(await wire.receive())["seq"] for _ in range(2)] == [9, 10]

    talking(test)


def test_silence_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last news before a silence may be what got lost."""
    monkeypatch.setattr(subscriptions, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(subscriptions, "LOOK_SECONDS", 0.1)

    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe())
        await wire.until("live")
        log.mute = True
        await log.append(TOPIC, several(1))
        assert (await wire.receive())["seq"] == 6

    talking(test)


def test_a_log_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "RETRY_SECONDS", 0.02)

    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe())
        await wire.until("live")
        read = log.read

        async def fails(channel: str, since: Position, limit: int) -> LogPage:
            raise ServiceUnavailable("away")

        monkeypatch.setattr(log, "read", fails)
        log.reconnect()
        await log.append(TOPIC, several(1))
        wire.send({"t": "ping"})
        assert await wire.receive() == {"t": "pong"}
        monkeypatch.setattr(log, "read", read)
        assert (await wire.receive())["seq"] == 6

    talking(test)


def test_a_new_subscription_to_a_log_that_is_away_is_refused_and_may_be_tried_again() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        read = log.read

        async def fails(channel: str, since: Position, limit: int) -> LogPage:
            raise ServiceUnavailable("away")

        log.read = fails  # type: ignore[method-assign]
        wire.send(subscribe())
        error = await wire.receive()
        assert (error["code"], error["retryable"]) == ("service_unavailable", True)
        log.read = read  # type: ignore[method-assign]
        wire.send(subscribe())
        assert (await wire.receive())["t"] == "subscribed"

    talking(test)


def test_a_subscription_that_falls_behind_what_is_kept_is_told_of_the_gap() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe(on_gap="earliest"))
        await wire.until("live")
        log.mute = True
        await log.append(TOPIC, several(10))
        log.keep(3)
        log.reconnect()
        assert brief([await wire.receive() for _ in range(4)]) == [
            ("gap", {"from": 6, "to": 12, "reason": "trimmed"}),
            ("event", {"seq": 13}),
            ("event", {"seq": 14}),
            ("event", {"seq": 15}),
        ]

    talking(test)


def test_and_is_ended_where_the_client_wants_it_so() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe(on_gap="fail"))
        await wire.until("live")
        log.mute = True
        await log.append(TOPIC, several(10))
        log.keep(3)
        log.reconnect()
        error, ended = await wire.receive(), await wire.receive()
        assert (error["code"], error["ch"]) == ("conflict", TOPIC)
        assert (ended["t"], ended["ch"], ended["reason"]) == ("unsubscribed", TOPIC, "gap")
        wire.send(subscribe())
        assert (await wire.receive())["t"] == "subscribed"

    talking(test)


def test_nothing_more_is_told_after_the_end_of_a_subscription() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send(subscribe())
        await wire.until("live")
        wire.send({"t": "unsubscribe", "id": 2, "ch": TOPIC})
        assert await wire.receive() == {"t": "unsubscribed", "id": 2, "ch": TOPIC, "reason": "requested"}
        await log.append(TOPIC, several(1))
        wire.send({"t": "ping"})
        assert await wire.receive() == {"t": "pong"}

    talking(test)


def test_history_is_a_page_and_no_subscription() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        wire.send({"t": "history", "id": 2, "ch": TOPIC, "since": {"seq": 1}, "limit": 2})
        reply = await wire.receive()
        assert (reply["t"], reply["id"]) == ("reply", 2)
        page = reply["data"]
        assert (page["top"], page["floor"], [event["seq"] for event in page["events"]]) == (5, 1, [2, 3])
        wire.send({"t": "history", "ch": TOPIC, "since": {"epoch": "unknown", "seq": 4}})
        assert [event["seq"] for event in (await wire.receive())["data"]["events"]] == [1, 2, 3, 4, 5]

    talking(test)


def test_a_client_that_comes_back_goes_on_with_all_it_had() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        async with wired(log) as second:
            resume = [{"ch": TOPIC, "epoch": log._known(TOPIC).epoch, "seq": 3}, {"ch": "nonsense", "seq": 1}]
            second.send({"t": "connect", "id": 9, "token": "good", "resume": resume})
            welcome, *frames = await second.until("live")
            first, other = welcome["resumed"]
            assert (first["recovered"], first["seq"], first["top"]) == (True, 3, 5)
            assert (other["recovered"], other["code"]) == (False, "bad_channel")
            assert seqs(frames) == [4, 5]

    talking(test)


def test_many_channels_are_told_side_by_side() -> None:
    async def test(wire: Wire, log: ShakyLog) -> None:
        names = [f"topic:{number}" for number in range(20)]
        for name in names:
            await log.append(name, several(3))
            wire.send({"t": "subscribe", "ch": name, "from": "earliest"})
        heard: dict[str, list[int]] = {name: [] for name in names}
        while any(len(told) < 3 for told in heard.values()):
            frame = await wire.receive()
            if frame["t"] == "event":
                heard[frame["ch"]].append(frame["seq"])
        assert set(map(tuple, heard.values())) == {(1, 2, 3)}

    talking(test)
