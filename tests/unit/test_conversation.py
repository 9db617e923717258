"""The client's conversation replays the transcript that every client is held to, and keeps what it promises beyond."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ai_agent.client import notices
from ai_agent.client.codec import SUBPROTOCOLS, decode, encode
from ai_agent.client.conversation import Conversation
from ai_agent.client.errors import Refused
from ai_agent.client.events import Event
from ai_agent.domain.frames import Call, ClientInfo, History, Subscribe

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
