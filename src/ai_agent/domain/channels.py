"""Channels: where events are told. A name says what they are about, and whoever may see that may listen."""

import hashlib
import re
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


class ChannelKind(StrEnum):
    EXECUTION = "execution"
    SESSION = "session"
    AGENT = "agent"
    TOPIC = "topic"
    USER = "user"
    PRESENCE = "presence"
    SYSTEM = "system"


SYSTEM = "system"
"""Notices to everyone: the only channel whose name is its kind alone."""

CONTROL = "control:sockets"
"""What nodes tell each other of their connections: no channel that a client could name, for it has no kind."""

_NAME = re.compile(r"([a-z_]+):([A-Za-z0-9_.:@|~+/=-]{1,255})")
_QUEUE = "user:"


class Channel(NamedTuple):
    """A channel's name, taken apart."""

    kind: ChannelKind
    key: str


def parse(name: str) -> Channel:
    """Raises ValueError for what is no name of a channel."""
    if name == SYSTEM:
        return Channel(ChannelKind.SYSTEM, "")
    parts = _NAME.fullmatch(name)
    if parts is None or parts[1] == SYSTEM:
        raise ValueError(name)
    return Channel(ChannelKind(parts[1]), parts[2])


def execution_channel(execution_id: UUID) -> str:
    return f"execution:{execution_id}"


def session_channel(session_id: UUID) -> str:
    return f"session:{session_id}"


def agent_channel(agent_id: UUID) -> str:
    return f"agent:{agent_id}"


def presence_channel(session_id: UUID | str) -> str:
    return f"presence:{session_id}"


def user_channel(subject: str) -> str:
    """Of a user's queue. A name cannot hold every subject: of others it holds the SHA-256, in hex behind a `~`."""
    name = _QUEUE + subject
    return name if _NAME.fullmatch(name) else f"{_QUEUE}~{hashlib.sha256(subject.encode()).hexdigest()}"


def queue_of(subject: str) -> str:
    """Where the outbox has what goes into a user's queue; see `queued_for`."""
    return _QUEUE + subject


def queued_for(channel: str) -> str | None:
    """Whose queue an event of the outbox goes into; None for one that goes into the log."""
    return channel.removeprefix(_QUEUE) if channel.startswith(_QUEUE) else None


class Retention(NamedTuple):
    """How many events of a channel are kept at least, and for how many seconds after the last one."""

    events: int
    seconds: float


_DAY = 86_400.0
_LONGEST = Retention(10_000, 30 * _DAY)
"""Of a run that has not ended; a day after its end its events go."""
_RETENTION = {
    ChannelKind.EXECUTION: _LONGEST,
    ChannelKind.SESSION: Retention(2000, _DAY),
    ChannelKind.AGENT: Retention(2000, _DAY),
    ChannelKind.TOPIC: Retention(500, 3600.0),
    ChannelKind.SYSTEM: Retention(500, _DAY),
    # Who comes back later asks who is there.
    ChannelKind.PRESENCE: Retention(100, 60.0),
    # Only that there is something new in the queue, which is in the database.
    ChannelKind.USER: Retention(1, 60.0),
}
_OF_CONTROL = Retention(500, 600.0)


def retention(name: str) -> Retention:
    if name == CONTROL:
        return _OF_CONTROL
    return _RETENTION.get(parse(name).kind, _LONGEST)
