"""What application code publishes, as events of the log, and as the bytes that they were."""

import msgspec

from ai_agent.domain.events import EventFrame, EventType, NewEvent
from ai_agent.domain.fields import StoredJson

EVENT_BYTES = 256 * 1024


def application_event(payload: bytes) -> NewEvent:
    """An event that holds a payload: an object or array in one line of JSON as it is, other UTF-8 as text.

    Raises ValueError for what is not UTF-8, or longer than 256 KiB as JSON.
    """
    event = NewEvent.of(EventType.APPLICATION, StoredJson(payload) if _is_json(payload) else payload.decode())
    if len(event.data) > EVENT_BYTES:
        raise ValueError(f"An event holds {EVENT_BYTES} bytes of JSON at most, not {len(event.data)}")
    return event


def payload_of(event: EventFrame) -> bytes:
    """The bytes that were published; of an event of the server's own the whole frame."""
    if event.type != EventType.APPLICATION:
        return event.json
    data = bytes(event.data)
    return msgspec.json.decode(data, type=str).encode() if data.startswith(b'"') else data


def _is_json(payload: bytes) -> bool:
    # A line break would end the line of formats that have one event a line.
    if not payload.startswith((b"{", b"[")) or b"\n" in payload or b"\r" in payload:
        return False
    try:
        payload.decode()
        msgspec.msgpack.encode(msgspec.json.decode(payload))  # Half of the readers get MessagePack.
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError):
        return False
    return True
