"""An execution's events as server-sent events, without I/O: what to ask for, and what the lines of the answer say."""

from typing import Any, NamedTuple

import msgspec

from ai_agent.client.events import Event, EventMap
from ai_agent.client.seen import Seen
from ai_agent.domain.events import TERMINAL

_event = msgspec.json.Decoder(EventMap)


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] | None = None


class ExecutionStream:
    """`request` begins the stream, and after its first event goes on behind the last. `ended`: all was told."""

    def __init__(self, request: Request):
        self.request = request
        self.ended = False
        self._position = ""
        self._seen = Seen()

    @classmethod
    def of(cls, execution_id: str, position: str = "") -> "ExecutionStream":
        return cls(_resumed(execution_id, position))

    def hear(self, line: str) -> Event | None:
        """The event that a line completes, where it is a new one. Raises msgspec.MsgspecError."""
        name, _, value = line.partition(": ")
        if name == "id":
            self._position = value
        return self._told(_event.decode(value)) if name == "data" else None

    def _told(self, frame: EventMap) -> Event | None:
        event = frame.typed(self._position.rpartition(":")[0])
        self.ended = event.type in TERMINAL
        self.request = _resumed(event.ch.partition(":")[2], self._position)
        return event if self._seen.is_new(event.eid) else None


def _resumed(execution_id: str, position: str) -> Request:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": position} if position else {})
    return Request("GET", f"/executions/{execution_id}/events", headers)
