"""Events as an application gets them, from a socket or a stream."""

from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.events import DATA, EventType
from ai_agent.domain.fields import JsonObject
from ai_agent.domain.frames import Since

EventData = msgspec.Struct | JsonObject


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`data` is the Struct of the event's type (`ai_agent.domain.events.DATA`); of a type, or a form of one, that
    this version does not know, it is a dict. `ts` is milliseconds since the epoch.
    """

    ch: str
    epoch: str
    seq: int
    eid: UUID
    type: str
    ts: int
    data: EventData
    lane: int | None = None
    """Of the user's queue, which `seq` counts in; such an event waits until it is acknowledged."""

    @property
    def position(self) -> Since:
        """Where to go on later: `subscribe(…, since=event.position)`."""
        return Since(self.seq, self.epoch)


class EventMap(msgspec.Struct, tag_field="t", tag="event"):
    """An event's frame, decoded but for its data. `prev` is the event before it where some between are hidden."""

    ch: str
    seq: int
    eid: UUID
    type: str
    ts: int
    data: JsonObject
    prev: int | None = None
    lane: int | None = None

    def typed(self, epoch: str) -> Event:
        data = typed_data(self.type, self.data)
        known = {"ch": self.ch, "seq": self.seq, "eid": self.eid, "type": self.type, "ts": self.ts, "lane": self.lane}
        return Event(epoch=epoch, data=data, **known)  # type: ignore[arg-type]  # the same fields


def typed_data(kind: str, data: dict[str, Any]) -> EventData:
    try:
        return msgspec.convert(data, DATA[EventType(kind)])
    except (ValueError, KeyError):  # A later server's: still of use to who knows more than we do.
        return data
