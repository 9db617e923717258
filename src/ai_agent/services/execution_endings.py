"""The end of a run, for readers whom the event log cannot tell it any more: a snapshot, and the terminal event."""

from datetime import timedelta
from uuid import UUID, uuid5

import msgspec

from ai_agent.domain.event_data import EndedData, SnapshotData
from ai_agent.domain.events import TERMINAL, EventFrame, EventType, terminal
from ai_agent.domain.executions import ExecutionError, Usage
from ai_agent.domain.fields import milliseconds, now, to_json
from ai_agent.realtime.event_log import EventLog, Position
from ai_agent.realtime.follow import Batch
from ai_agent.storage import messages
from ai_agent.storage.database import Reader
from ai_agent.storage.executions import Standing

LATE = timedelta(seconds=5)
"""So long after a run's end nobody waits any more for the log to tell of it."""


def is_late(row: Standing) -> bool:
    return row.finished_at is not None and now() - row.finished_at > LATE


async def ending(reader: Reader, log: EventLog, name: str, row: Standing | None, told: int | None) -> Batch:
    """What is left to tell of a run that is over, or deleted (None), to a reader of whose channel `name` this is.

    `told` is the number of the last event that the reader has, None where it has none that still counts. Empty when
    that was the terminal one. The terminal event is the log's where the log has it, else made from the row.
    """
    page = await log.read(name, Position("", 0), 0)
    last = (await log.read(name, Position("", page.top - 1), 1)).events if page.top else []
    if last and last[0].type in TERMINAL and told == last[0].seq:
        return Batch(page.epoch, [])
    if row is None:
        return Batch(page.epoch or "0", [_deleted(name, page.top + 1)])
    text = await _text(reader, row)
    if last and last[0].type in TERMINAL:
        return Batch(page.epoch, [_snapshot(name, row, text, last[0].seq - 1), last[0]])
    seq = page.top + 1
    return Batch(row.epoch, [_snapshot(name, row, text, seq), _terminal(name, row, seq + 1)])


async def _text(reader: Reader, row: Standing) -> str:
    if row.output_message_id is None:
        return ""
    message = await messages.get(reader, row.owner_id, row.output_message_id)
    return message.content if message else ""


def _snapshot(name: str, row: Standing, text: str, seq: int) -> EventFrame:
    data = SnapshotData.of(row.output_message_id, text, row.status)
    return _frame(name, row, seq, EventType.SNAPSHOT, data)


def _terminal(name: str, row: Standing, seq: int) -> EventFrame:
    usage = msgspec.json.decode(row.usage, type=Usage | None) or Usage()
    error = msgspec.json.decode(row.error, type=ExecutionError | None)
    elapsed = milliseconds(row.queued_at, row.finished_at or row.queued_at)
    return _frame(
        name,
        row,
        seq,
        *terminal((row.id, row.session_id, row.agent_id), row.status, row.output_message_id, usage, error, elapsed),
    )


def _frame(name: str, row: Standing, seq: int, kind: EventType, data: msgspec.Struct) -> EventFrame:
    ts = int((row.finished_at or row.queued_at).timestamp() * 1000)
    return EventFrame(name, seq, _eid(name, kind), kind, ts, to_json(data))


def _deleted(name: str, seq: int) -> EventFrame:
    data = to_json(EndedData(UUID(name.partition(":")[2]), None, None, None, Usage(), 0))
    return EventFrame(name, seq, _eid(name, EventType.CANCELLED), EventType.CANCELLED, _milliseconds(), data)


def _milliseconds() -> int:
    return int(now().timestamp() * 1000)


def _eid(name: str, kind: EventType) -> UUID:
    """The same whenever it is told, so that a reader who hears it twice can know."""
    return uuid5(UUID(name.partition(":")[2]), kind)
