"""Frames to messages and back, in both codecs."""

import contextlib
import json
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from ai_agent.api.websocket.errors import BadFrame, FrameError, Unsupported
from ai_agent.api.websocket.protocol import JSON, KINDS, MSGPACK, Codec, WrongCodec, decode, negotiated
from ai_agent.domain.events import EventFrame
from ai_agent.domain.frames import COMMAND_BURST, Ping, Reply, ServerPong, Subscribe

CODECS = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])


def packed(codec: Codec, value: object) -> dict[str, Any]:
    return {"text": json.dumps(value)} if codec is JSON else {"bytes": msgspec.msgpack.encode(value)}


def unpacked(message: dict[str, Any]) -> Any:
    assert message["type"] == "websocket.send"
    return json.loads(message["text"]) if "text" in message else msgspec.msgpack.decode(message["bytes"])


def one(data: bytes, *, batch: bool = False) -> Any:
    (frame,) = decode(data, batch=batch)
    return frame


def event(seq: int = 7, **data: Any) -> EventFrame:
    return EventFrame("topic:a", seq, UUID(int=1), "news", 5, msgspec.Raw(msgspec.json.encode(data)))


@CODECS
def test_a_frame_is_the_same_in_both_codecs(codec: Codec) -> None:
    message = packed(codec, {"t": "subscribe", "id": 3, "ch": "topic:a", "from": "last:5", "types": ["a.*"]})
    assert one(codec.received(message)) == Subscribe(id=3, ch="topic:a", from_="last:5", types=["a.*"])


@CODECS
def test_ids_and_times_are_strings_in_both_codecs(codec: Codec) -> None:
    reply = Reply(id=1, data={"id": UUID(int=1), "stored": msgspec.Raw(b'{"a":[1.5,null]}')})
    expected = {"t": "reply", "id": 1, "data": {"id": str(UUID(int=1)), "stored": {"a": [1.5, None]}}}
    assert unpacked(codec.frame(reply)) == expected
    assert unpacked(codec.frame(ServerPong())) == {"t": "pong"}


@CODECS
def test_an_event_behind_hidden_ones_names_the_last_that_was_shown(codec: Codec) -> None:
    shown = unpacked(codec.event(event(seq=9, text='ä"}')))
    assert "prev" not in shown
    assert unpacked(codec.event_behind(event(seq=9, text='ä"}'), 4)) == {**shown, "prev": 4}


@CODECS
@pytest.mark.parametrize("prev", [0, 127, 128, 2**31, 2**53 - 1])
def test_such_a_number_may_be_of_any_size(codec: Codec, prev: int) -> None:
    assert unpacked(codec.event_behind(event(), prev))["prev"] == prev


def test_the_other_kind_of_message_is_refused() -> None:
    with pytest.raises(WrongCodec):
        JSON.received({"type": "websocket.receive", "bytes": b"{}"})
    with pytest.raises(WrongCodec):
        MSGPACK.received({"type": "websocket.receive", "text": "{}"})


@pytest.mark.parametrize(
    ("offered", "codec"),
    [
        ([], JSON),
        (["aiagent.v1.json"], JSON),
        (["aiagent.v1.msgpack", "aiagent.v1.json"], MSGPACK),
        (["other", "aiagent.v1.msgpack"], MSGPACK),
        (["other"], None),
    ],
)
def test_the_first_that_both_speak_is_taken(offered: list[str], codec: Codec | None) -> None:
    assert negotiated(offered) is codec


@pytest.mark.parametrize(
    ("text", "field", "frame_id"),
    [
        ("", "", None),
        ("nonsense", "", None),
        ('{"t":"ping"', "", None),
        ('{"t":"ping"} {}', "", None),
        ('"ping"', "", None),
        ("5", "", None),
        ("{}", "t", None),
        ('{"id":4}', "t", 4),
        ('{"t":5,"id":4}', "t", 4),
        ('{"t":"ping","id":"x"}', "id", None),
        ('{"t":"ping","id":-1}', "id", None),
        ('{"t":"ping","id":4294967296}', "id", None),
        ('{"t":"ping","id":1e400}', "", None),
        ('{"t":"subscribe","id":4}', "ch", 4),
        ('{"t":"subscribe","id":4,"ch":7}', "ch", 4),
        ('{"t":"subscribe","id":4,"ch":"topic:a","more":1}', "more", 4),
        ('{"t":"subscribe","id":4,"ch":"topic:a","since":{"seq":"a"}}', "since.seq", 4),
        ('{"t":"subscribe","id":4,"ch":"topic:a","on_gap":"x"}', "on_gap", 4),
        ('{"t":"subscribe","id":4,"ch":"topic:a","from":"then"}', "from", 4),
        ('{"t":"connect","resume":[{"ch":"topic:a"}]}', "resume[0].seq", None),
    ],
)
def test_a_bad_frame_is_told_with_its_field_and_its_id(text: str, field: str, frame_id: int | None) -> None:
    refused = one(text.encode())
    assert isinstance(refused, BadFrame)
    assert (refused.code, refused.field, refused.id) == ("bad_frame", field, frame_id)
    assert refused.message


def test_an_unknown_kind_is_unsupported_and_named() -> None:
    refused = one(b'{"t":"dance","id":4,"more":1}')
    assert isinstance(refused, Unsupported)
    assert (refused.code, refused.id) == ("unsupported", 4)
    assert "dance" in refused.message


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"t":"call","method":"m","params":{"a":', "[" * 100 + "{"])
def test_what_is_nested_too_deeply_is_a_bad_frame(opening: str) -> None:
    text = opening * (60_000 // len(opening))
    frames = [*decode(text.encode(), batch=True), *decode(text.encode(), batch=False)]
    assert {type(frame) for frame in frames} == {BadFrame}


def test_deep_messagepack_is_a_bad_frame() -> None:
    with pytest.raises(BadFrame):
        MSGPACK.received({"bytes": b"\x91" * 60_000})


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x81\x01\x02", b"\x81\xa1t\xc4\x01x", b"\x81\xa1t\xcb\x7f\xf0\0\0\0\0\0\0", b"\x81\xa1t\xa1\xff"],
)
def test_messagepack_that_json_cannot_say_is_a_bad_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        MSGPACK.received({"bytes": data})


def test_an_array_needs_the_capability() -> None:
    data = b'[{"t":"ping","id":1},{"t":"x","id":2},{"t":"ping","id":3},7]'
    assert isinstance(one(data), BadFrame)
    first, second, third, last = decode(data, batch=True)
    assert (first, third) == (Ping(id=1), Ping(id=3))
    assert isinstance(second, Unsupported)
    assert isinstance(last, BadFrame)


def test_an_array_holds_no_more_than_may_be_sent_at_once() -> None:
    ping = '{"t":"ping"}'
    assert len(list(decode(f"[{','.join([ping] * COMMAND_BURST)}]".encode(), batch=True))) == COMMAND_BURST
    assert isinstance(one(f"[{','.join([ping] * (COMMAND_BURST + 1))}]".encode(), batch=True), BadFrame)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
kinds = st.sampled_from([*map(str, KINDS), "other"])
near_frames = st.fixed_dictionaries(
    {"t": kinds}, optional={"id": json_values, "ch": json_values, "params": json_values}
)


@given(near_frames | json_values, st.booleans())
def test_whatever_is_sent_is_a_frame_or_refused(value: object, batch: bool) -> None:
    for frame in decode(json.dumps(value).encode(), batch=batch):
        assert isinstance(frame, FrameError | msgspec.Struct)


@given(st.binary(max_size=200), st.booleans())
def test_whatever_bytes_come_are_refused_and_nothing_breaks(data: bytes, batch: bool) -> None:
    assert all(isinstance(frame, FrameError | msgspec.Struct) for frame in decode(data, batch=batch))
    with contextlib.suppress(BadFrame):
        assert MSGPACK.received({"bytes": data})
