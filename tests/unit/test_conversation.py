"""The client's conversation replays the transcript that every client is held to, and keeps what it promises beyond."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.client import notices
from ai_agent.client.codec import SUBPROTOCOLS, decode, encode
from ai_agent.client.conversation import Conversation
from ai_agent.client.errors import Refused
from ai_agent.client.events import Event
from ai_agent.client.seen import REMEMBERED_EVENTS
from ai_agent.domain.event_data import TokenData
from ai_agent.domain.frames import Call, ClientInfo, History, Presence, Subscribe

TRANSCRIPT = Path(__file__).parents[1] / "contract" / "realtime_transcript.jsonl"
Line = dict[str, Any]


def cases() -> dict[str, list[Line]]:
    """The lines of each case, its own first."""
    found: dict[str, list[Line]] = {}
    for line in map(json.loads, TRANSCRIPT.read_text().splitlines()[1:]):
        if "case" in line:
            assert line["case"] not in found
            current = found[line["case"]] = []
        current.append(line)
    return found


CASES = cases()


class Replay:
    """A conversation, and the bytes that it would have sent in one codec."""

    def __init__(self, codec: str, provider: bool = True):
        self.conversation = Conversation(ClientInfo("transcript", "i-1"), renewable=provider)
        self.codec = codec
        self.seen: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []

    def step(self, line: Line) -> None:
        match line:
            case {"dir": "send"}:
                assert self.sent.pop(0) == line["frame"]
            case {"expect": expected}:
                assert_told(self.seen.pop(0), expected)
            case _:
                assert (self.sent, self.seen) == ([], []), "what nobody expects"
                self.happen(line)
                self.collect()

    def happen(self, line: Line) -> None:
        match line:
            case {"dir": "connect"}:
                self.conversation.opened(line["frame"]["token"])
            case {"dir": "disconnect"}:
                self.conversation.lost(line["frame"]["code"])
            case {"dir": "receive"}:
                for frame in decode(self.bytes_of(line["frame"])):
                    self.conversation.receive(frame)
            case {"do": what}:
                self.do(what, {name: value for name, value in line.items() if name != "do"})

    def do(self, what: str, options: dict[str, Any]) -> None:
        actions: dict[str, Callable[[], object]] = {
            "subscribe": lambda: self.conversation.subscribe(msgspec.convert({"t": "subscribe", **options}, Subscribe)),
            "unsubscribe": lambda: self.conversation.unsubscribe(options["ch"]),
            "call": lambda: self.conversation.command(msgspec.convert({"t": "call", **options}, Call)),
            "history": lambda: self.conversation.command(msgspec.convert({"t": "history", **options}, History)),
            "presence": lambda: self.conversation.command(msgspec.convert({"t": "presence", **options}, Presence)),
            "token": lambda: self.conversation.renew(options["token"]),
        }
        actions[what]()

    def collect(self) -> None:
        while self.conversation.outbox:
            encoded = encode(self.conversation.outbox.popleft(), self.codec)
            self.sent.append(json.loads(encoded) if isinstance(encoded, str) else msgspec.msgpack.decode(encoded))
        while self.conversation.notices:
            self.seen.append(told(self.conversation.notices.popleft()))

    def bytes_of(self, frame: object) -> str | bytes:
        return json.dumps(frame) if self.codec == "json" else msgspec.msgpack.encode(frame)


def told(notice: notices.Output) -> dict[str, Any]:
    """What the transcript calls it."""
    match notice:
        case Event():
            return {"event": msgspec.to_builtins(notice)}
        case notices.Gap():
            return {"gap": {"ch": notice.ch, "from": notice.first, "to": notice.last, "reason": notice.reason}}
        case notices.Connected():
            return {"connected": {"conn": notice.conn, "silence_ms": notice.silence_seconds * 1000}}
        case notices.Ended():
            return {"ended": {"ch": notice.ch, "reason": notice.error.reason}}
        case notices.Replied():
            return {"reply": {"id": notice.id, "data": notice.data}}
        case notices.Failed():
            code = notice.error.code if isinstance(notice.error, Refused) else "disconnected"
            return {"failed": {"id": notice.id, "code": code}}
        case notices.Retry():
            return {"retry": {"up_to_ms" if notice.jitter else "after_ms": notice.within_ms}}
    names = {
        notices.EpochChanged: "epoch",
        notices.Live: "live",
        notices.TokenWanted: "token",
        notices.Drop: "drop",
        notices.Trouble: "error",
        notices.Over: "closed",
    }
    return {names[type(notice)]: msgspec.to_builtins(notice)}


def assert_told(seen: dict[str, Any], expected: dict[str, Any]) -> None:
    [(kind, members)] = expected.items()
    assert list(seen) == [kind], seen
    assert {name: seen[kind].get(name) for name in members} == members
    if kind == "epoch":
        assert seen[kind].get("rewound_to") == members.get("rewound_to")


@pytest.mark.parametrize("codec", SUBPROTOCOLS)
@pytest.mark.parametrize("name", CASES)
def test_the_transcript_is_replayed(name: str, codec: str) -> None:
    head, *lines = CASES[name]
    replay = Replay(codec, head.get("provider", True))
    for number, line in enumerate([*lines, {"case": "end"}], 1):
        try:
            replay.step(line)
        except (AssertionError, IndexError) as error:
            raise AssertionError(f"line {number} of the case: {line}") from error


# Beyond the transcript


def begun(*lines: Line) -> Replay:
    """Behind a welcome and a subscription of `topic:a`."""
    replay = Replay("json")
    for line in (*CASES["an event that comes twice is seen once"][1:8], *lines):
        replay.happen(line)
    replay.collect()
    replay.sent, replay.seen = [], []
    return replay


def event(seq: int, eid: int, **more: Any) -> Line:
    about = {"t": "event", "ch": "topic:a", "seq": seq, "eid": f"01900000-0000-7000-8000-{eid:012d}"}
    return {"dir": "receive", "frame": about | {"type": "note", "ts": 1, "data": {}} | more}


def seen_by(replay: Replay, *lines: Line) -> list[dict[str, Any]]:
    for line in lines:
        replay.happen(line)
    replay.collect()
    return replay.seen


def test_a_channel_that_is_paused_is_not_resumed_until_it_is_wanted_again() -> None:
    replay = begun(event(1, 1))
    replay.conversation.pause("topic:a")
    replay.conversation.lost(1006)
    replay.conversation.opened("t1")
    replay.happen(CASES["pings are answered"][3])
    replay.collect()
    assert [frame["t"] for frame in replay.sent] == ["connect"]
    assert "resume" not in replay.sent[0]
    replay.conversation.proceed("topic:a")
    replay.collect()
    assert replay.sent[-1]["since"] == {"epoch": "e1", "seq": 1}


def test_the_data_of_an_event_is_its_types_or_a_dict_where_a_later_server_says_more() -> None:
    def data_of(kind: str, data: dict[str, Any]) -> object:
        replay = begun()
        replay.happen(event(1, 1, type=kind, data=data))
        notice = replay.conversation.notices.popleft()
        assert isinstance(notice, Event)
        return notice.data

    message = "01900000-0000-7000-8000-000000000009"
    token = {"message_id": message, "offset": 0, "text": "a", "more": 1}
    assert data_of("execution.token", token) == TokenData(UUID(message), 0, "a")
    assert data_of("execution.token", {"text": 1}) == {"text": 1}
    assert data_of("tool.dreamt", {"of": "sheep"}) == {"of": "sheep"}


def test_no_more_events_are_remembered_than_may_come_again() -> None:
    replay = begun(*(event(seq, seq) for seq in range(1, REMEMBERED_EVENTS + 2)))
    rewind = {"t": "epoch", "ch": "topic:a", "epoch": "e2", "seq": REMEMBERED_EVENTS + 1, "rewound_to": 0}
    again = seen_by(
        replay, {"dir": "receive", "frame": rewind}, event(1, 2), event(2, REMEMBERED_EVENTS + 1), event(3, 1)
    )
    assert [(kind, about["seq"]) for one in again for kind, about in one.items()] == [("epoch", 0), ("event", 3)]


MOVES = st.lists(st.sampled_from(["next", "next", "skip", "again", "drop"]), max_size=40)


@given(moves=MOVES)
def test_whatever_the_connection_does_each_event_is_seen_once_and_in_order(moves: list[str]) -> None:
    """A server that keeps what it has numbered, over sockets that end, skip and repeat."""
    replay, told, at = begun(), 0, 0
    for move in [*moves, "next"]:
        if move == "drop":
            replay.conversation.lost(1006)
            replay.conversation.opened("t1")
        elif move == "again":
            replay.happen(event(max(at, 1), max(at, 1)))
            at = max(at, 1)
        else:
            at += 1
            if move == "next":
                replay.happen(event(at, at))
        told = max(told, at)
        while (behind := answered(replay)) is not None:
            for seq in range(behind + 1, told + 1):
                replay.happen(event(seq, seq))
            at = told
    replay.collect()
    assert [one["event"]["seq"] for one in replay.seen if "event" in one] == list(range(1, told + 1))


def answered(replay: Replay) -> int | None:
    """Behind which number the client wants the channel now; None when it has not asked."""
    replay.collect()
    asked, replay.sent = replay.sent, []
    since = None
    for frame in asked:
        if frame["t"] == "connect":
            [since] = frame["resume"]
            welcome = CASES["pings are answered"][3]["frame"] | {"id": frame["id"], "resumed": [resumed(since)]}
            replay.happen({"dir": "receive", "frame": welcome})
        elif frame["t"] == "subscribe":
            since = frame["since"]
            answer = {"t": "subscribed", "id": frame["id"], "ch": frame["ch"], **resumed(since)}
            replay.happen({"dir": "receive", "frame": answer})
    return None if since is None else int(since["seq"])


def resumed(since: dict[str, Any]) -> dict[str, Any]:
    return since | {"recovered": True, "top": 100, "floor": 1}
