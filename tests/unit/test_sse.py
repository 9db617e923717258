"""Server-sent events: their frames, and where a reader goes on."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.api import sse
from ai_agent.domain.errors import InvalidFields
from ai_agent.domain.events import EventFrame, EventType
from ai_agent.realtime.event_log import Position
from ai_agent.realtime.follow import Batch

RUN = UUID(int=1)
EPOCH = "a1b2c3d4"


def event(seq: int, text: str = "Hi") -> EventFrame:
    data = msgspec.Raw(msgspec.json.encode({"text": text}))
    return EventFrame(f"execution:{RUN}", seq, UUID(int=seq), EventType.TOKEN, 1_767_225_600_000, data)


def streamed(*batches: list[EventFrame]) -> list[bytes]:
    """The chunks of a stream of these batches."""

    messages = asyncio.run(answered(Told(batches)))
    assert messages[0]["type"] == "http.response.start"
    assert [message["more_body"] for message in messages[1:]] == [True] * (len(messages) - 2) + [False]
    return [message["body"] for message in messages[1:-1]]


class Told:
    """A reader that hears these batches, and then nothing until it leaves."""

    def __init__(self, batches: Sequence[list[EventFrame]], *, ends: bool = True):
        self._batches = list(batches)
        self._left = asyncio.Event()
        self._ends = ends

    @property
    def ended(self) -> bool:
        return self._ends and not self._batches

    async def next(self) -> Batch | None:
        if self._batches:
            return Batch(EPOCH, self._batches.pop(0))
        if not self._ends:
            await self._left.wait()
        return None

    def leave(self) -> None:
        self._left.set()


async def answered(reader: Told, *received: str, version: str = "1.1") -> list[Any]:
    """The messages of a stream to a client of whom these are received."""
    messages: list[Any] = []
    types = list(received)

    async def receive() -> Any:
        return {"type": types.pop(0)} if types else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        messages.append(message)

    app = sse.EventStream(contextlib.nullcontext(reader), RUN).to_asgi_response()
    async with asyncio.timeout(5):
        await app({"http_version": version}, receive, send)  # type: ignore[arg-type]  # all of it that anybody looks at
    return messages


def test_an_event_is_its_id_its_type_and_its_frame() -> None:
    _, chunk = streamed([event(7)])
    head, data = chunk.decode().split("\ndata: ")
    assert head == "id: a1b2c3d4:7\nevent: execution.token"
    assert data.endswith("\n\n")
    frame = json.loads(data)
    assert (frame["ch"], frame["seq"], frame["data"]) == (f"execution:{RUN}", 7, {"text": "Hi"})


@given(st.text())
def test_a_frame_is_three_lines_whatever_the_text(text: str) -> None:
    _, chunk = streamed([event(1, text)])
    lines = chunk.split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"id", b"event", b"data", b"", b""]
    assert b"\r" not in chunk
    assert json.loads(lines[2][6:])["data"] == {"text": text}


def test_a_stream_begins_with_the_pause_before_a_reconnect() -> None:
    assert streamed() == [b"retry: 2000\n\n"]


def test_an_id_that_was_sent_is_the_position_to_go_on_from() -> None:
    _, chunk = streamed([event(1), event(2)])
    ids = [line.removeprefix("id: ") for line in chunk.decode().splitlines() if line.startswith("id: ")]
    assert [sse.resume_position(position) for position in ids] == [Position(EPOCH, 1), Position(EPOCH, 2)]


def test_events_that_come_together_are_written_at_once() -> None:
    assert len(streamed([event(1), event(2)], [event(3)])) == 3
    assert streamed([event(1), event(2)])[1] == b"".join(streamed([event(1)], [event(2)])[1:])


def test_a_silent_stream_is_kept_alive_by_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(streamed([], [])) == 1
    monkeypatch.setattr(sse, "KEEPALIVE_SECONDS", 0.0)
    assert streamed([], [event(1)])[1] == b": keep-alive\n\n"


def test_no_proxy_may_keep_or_hold_back_a_stream() -> None:
    start, *_ = asyncio.run(answered(Told([])))
    headers = dict(start["headers"])
    assert start["status"] == 200
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-accel-buffering"] == b"no"
    assert headers[b"content-location"] == f"/api/v1/executions/{RUN}".encode()


@pytest.mark.parametrize(("version", "told"), [("1.1", b"close"), ("2", None)])
def test_no_request_follows_on_the_connection_of_a_stream(version: str, told: bytes | None) -> None:
    start, *_ = asyncio.run(answered(Told([]), version=version))
    assert dict(start["headers"]).get(b"connection") == told


def test_a_reader_leaves_with_its_client() -> None:
    assert asyncio.run(answered(Told([], ends=False), "http.request", "http.disconnect"))


def test_streams_that_are_ended_together_come_back_one_after_the_other() -> None:
    def pause() -> int:
        *_, last, end = asyncio.run(answered(Told([], ends=False), "http.disconnect"))
        assert end["more_body"] is False
        assert last["body"].endswith(b"\n\n")
        return int(last["body"].removeprefix(b"retry: "))

    pauses = {pause() for _ in range(20)}
    assert len(pauses) > 10
    assert all(250 <= pause <= 2000 for pause in pauses)


@pytest.mark.parametrize(
    ("position", "place"),
    [(None, ("", 0)), ("", ("", 0)), ("7", ("", 7)), ("0", ("", 0)), ("other:7", ("other", 7)), ("a:0", ("a", 0))],
)
def test_a_position_is_a_number_and_maybe_its_epoch(position: str | None, place: tuple[str, int]) -> None:
    assert sse.resume_position(position) == place


@pytest.mark.parametrize(
    "position", ["x", "-1", "1.5", "+1", " 1", f"{EPOCH}:", f"{EPOCH}:x", ":", f"{EPOCH};7", "1\n", "9" * 11]
)
def test_a_position_that_is_none_is_refused_by_name(position: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        sse.resume_position(position)
    assert [error.field for error in caught.value.errors] == ["after"]


def test_only_the_start_of_a_wrong_position_is_told() -> None:
    with pytest.raises(InvalidFields) as caught:
        sse.resume_position("x" * 10_000)
    assert caught.value.errors[0].value == "x" * 200


@given(st.text(st.characters(codec="ascii")))
def test_arbitrary_text_is_a_position_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidFields):
        assert sse.resume_position(text).seq >= 0


@pytest.mark.parametrize("position", ["²", "a1b2c3d4:²", "٣", "9999999999"])
def test_digits_that_are_no_position_are_refused(position: str) -> None:
    with pytest.raises(InvalidFields):  # 9999999999 is beyond PostgreSQL's integer
        sse.resume_position(position)
