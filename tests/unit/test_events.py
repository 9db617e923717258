"""Events: the frame that every reader receives, and which of them end a run."""

from uuid import UUID

import msgspec
import pytest

from ai_agent.domain.events import TERMINAL, EventFrame, EventType, NewEvent
from ai_agent.domain.executions import ExecutionStatus

RUN, EVENT = UUID(int=1), UUID(int=2)


def test_a_frame_names_its_channel_its_place_and_its_kind() -> None:
    frame = EventFrame(f"execution:{RUN}", 7, EVENT, EventType.TOKEN, 1500, msgspec.Raw(b'{"text":"Hi"}'))
    assert msgspec.json.decode(msgspec.json.encode(frame)) == {
        "t": "event",
        "ch": f"execution:{RUN}",
        "seq": 7,
        "eid": str(EVENT),
        "type": "execution.token",
        "ts": 1500,
        "data": {"text": "Hi"},
    }


def test_an_event_is_unlike_any_other_and_knows_when_it_was_made() -> None:
    first, second = (NewEvent.of(EventType.TOKEN, {"text": "Hi"}) for _ in range(2))
    assert first.eid < second.eid
    assert 1_767_225_600_000 < first.ts <= second.ts  # Milliseconds: a second is no such number.


@pytest.mark.parametrize("status", list(ExecutionStatus))
def test_a_run_ends_with_the_event_of_its_status_and_no_other(status: ExecutionStatus) -> None:
    assert (f"execution.{status}" in TERMINAL) == (status in {"completed", "failed", "cancelled"})
