"""Events: the frame that every reader receives, and which of them end a run."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import msgspec
import pytest

from ai_agent.domain.events import TERMINAL, EventFrame, EventType, StoredEvent
from ai_agent.domain.executions import ExecutionStatus

RUN, EVENT = UUID(int=1), UUID(int=2)


def event(at: datetime) -> StoredEvent:
    return StoredEvent(RUN, 7, EVENT, EventType.TOKEN, at, msgspec.Raw(b'{"text":"Hi"}'))


def test_a_frame_names_its_channel_its_place_and_its_kind() -> None:
    frame = EventFrame.of(event(datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)))
    assert msgspec.json.decode(msgspec.json.encode(frame)) == {
        "t": "event",
        "ch": f"execution:{RUN}",
        "seq": 7,
        "eid": str(EVENT),
        "type": "execution.token",
        "ts": 1500,
        "data": {"text": "Hi"},
    }


def test_a_frames_time_is_the_moment_whatever_the_zone() -> None:
    here = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert EventFrame.of(event(here)).ts == EventFrame.of(event(here.astimezone(UTC))).ts == 1_767_225_600_000


@pytest.mark.parametrize("status", list(ExecutionStatus))
def test_a_run_ends_with_the_event_of_its_status_and_no_other(status: ExecutionStatus) -> None:
    assert (f"execution.{status}" in TERMINAL) == (status in {"completed", "failed", "cancelled"})
