"""How `event_log.lua` is asked, and how what it keeps and publishes is read."""

import secrets
from importlib.resources import files

import msgspec

from ai_agent.domain.events import EventFrame, NewEvent
from ai_agent.realtime.event_log import Heard
from ai_agent.storage.redis import Argument

SCRIPT = files(__package__).joinpath("event_log.lua").read_text()
_SEPARATOR = b"\x1e"


class _Rest(msgspec.Struct):
    """What follows an event's number."""

    eid: str
    type: str
    ts: int
    data: msgspec.Raw


def rest(event: NewEvent) -> bytes:
    """An event as it is kept: its JSON behind the number, which only the log knows."""
    return b"," + msgspec.json.encode(_Rest(str(event.eid), event.type, event.ts, event.data))[1:]


def head(channel: str) -> bytes:
    """What comes before the number."""
    return b'{"t":"event","ch":' + msgspec.json.encode(channel) + b',"seq":'


def frames(channel: str, rows: list[tuple[bytes, list[bytes]]]) -> list[EventFrame]:
    """Of entries of the stream: each its id, `<seq>-0`, and one field."""
    before = head(channel)
    return [EventFrame.of_json(before + at.partition(b"-")[0] + fields[1]) for at, fields in rows]


def heard(payload: bytes) -> Heard:
    epoch, *events = payload.split(_SEPARATOR)
    return Heard(epoch.decode(), [EventFrame.of_json(event) for event in events])


class Keys:
    """A deployment's; `name` tells it from others that share a Redis."""

    def __init__(self, name: str):
        self._prefix = f"ai-agent:log:{name}:{{"

    def published(self, channel: str) -> str:
        """Where it is told what is new; the key of the events, too."""
        return f"{self._prefix}{channel}}}:events"

    def channel(self, published: str) -> str:
        return published.removeprefix(self._prefix).removesuffix("}:events")

    def call(self, channel: str, command: str, *arguments: Argument) -> tuple[Argument, ...]:
        # The braces keep the keys of a channel in one place of a cluster.
        key = f"{self._prefix}{channel}}}:"
        return 3, f"{key}events", f"{key}eids", f"{key}meta", command, secrets.token_hex(4), *arguments
