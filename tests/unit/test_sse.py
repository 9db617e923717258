"""Server-sent events: their frames, and where a reader goes on."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.api import sse
from ai_agent.domain.errors import InvalidFields
from ai_agent.domain.events import EventType, StoredEvent

RUN = UUID(int=1)
EPOCH = "a1b2c3d4"


def event(seq: int, text: str = "Hi") -> StoredEvent:
    data = msgspec.Raw(msgspec.json.encode({"text": text}))
    return StoredEvent(RUN, seq, UUID(int=seq), EventType.TOKEN, datetime(2026, 1, 1, tzinfo=UTC), data)


def streamed(*events: StoredEvent | None) -> list[bytes]:
    """The chunks of a stream of these events."""

    async def follow() -> AsyncIterator[StoredEvent | None]:
        for one in events:
            yield one

    async def chunks() -> list[bytes]:
        return [chunk async for chunk in sse._frames(EPOCH, follow())]

    return asyncio.run(chunks())


def test_an_event_is_its_id_its_type_and_its_frame() -> None:
    _, chunk = streamed(event(7))
    head, data = chunk.decode().split("\ndata: ")
    assert head == "id: a1b2c3d4:7\nevent: execution.token"
    assert data.endswith("\n\n")
    frame = json.loads(data)
    assert (frame["ch"], frame["seq"], frame["data"]) == (f"execution:{RUN}", 7, {"text": "Hi"})


@given(st.text())
def test_a_frame_is_three_lines_whatever_the_text(text: str) -> None:
    _, chunk = streamed(event(1, text))
    lines = chunk.split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"id", b"event", b"data", b"", b""]
    assert b"\r" not in chunk
    assert json.loads(lines[2][6:])["data"] == {"text": text}


def test_a_stream_begins_with_the_pause_before_a_reconnect() -> None:
    assert streamed() == [b"retry: 2000\n\n"]


def test_an_id_that_was_sent_is_the_position_to_go_on_from() -> None:
    _, *chunks = streamed(event(1), event(2))
    ids = [chunk.decode().partition("\n")[0].removeprefix("id: ") for chunk in chunks]
    assert [sse.resume_position(position, EPOCH) for position in ids] == [1, 2]


def test_a_silent_stream_is_kept_alive_by_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(streamed(None, None)) == 1
    monkeypatch.setattr(sse, "KEEPALIVE_SECONDS", 0.0)
    assert streamed(None, event(1))[1] == b": keep-alive\n\n"


def test_no_proxy_may_keep_or_hold_back_a_stream() -> None:
    async def nothing() -> AsyncIterator[StoredEvent | None]:
        return
        yield

    stream = sse.event_stream(EPOCH, nothing(), RUN)
    assert stream.headers["Content-Type"] == "text/event-stream"
    assert stream.headers["Cache-Control"] == "no-store"
    assert stream.headers["X-Accel-Buffering"] == "no"
    assert stream.headers["Content-Location"] == f"/api/v1/executions/{RUN}"


@pytest.mark.parametrize(
    ("position", "seq"),
    [(None, 0), ("", 0), ("7", 7), ("0", 0), (f"{EPOCH}:7", 7), ("other:7", 0), (f"{EPOCH}:0", 0)],
)
def test_a_reader_goes_on_behind_its_position_and_reads_another_epoch_from_the_start(
    position: str | None, seq: int
) -> None:
    assert sse.resume_position(position, EPOCH) == seq


@pytest.mark.parametrize(
    "position", ["x", "-1", "1.5", "+1", " 1", f"{EPOCH}:", f"{EPOCH}:x", ":", f"{EPOCH};7", "1\n", "9" * 11]
)
def test_a_position_that_is_none_is_refused_by_name(position: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        sse.resume_position(position, EPOCH)
    assert [error.field for error in caught.value.errors] == ["after"]


def test_only_the_start_of_a_wrong_position_is_told() -> None:
    with pytest.raises(InvalidFields) as caught:
        sse.resume_position("x" * 10_000, EPOCH)
    assert caught.value.errors[0].value == "x" * 200


@given(st.text(st.characters(codec="ascii")))
def test_arbitrary_text_is_a_position_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidFields):
        assert sse.resume_position(text, EPOCH) >= 0


@pytest.mark.parametrize("position", ["²", "a1b2c3d4:²", "٣", "9999999999"])
def test_digits_that_are_no_position_are_refused(position: str) -> None:
    with pytest.raises(InvalidFields):  # 9999999999 is beyond PostgreSQL's integer
        sse.resume_position(position, "a1b2c3d4")
