"""The client's side of the real-time protocol, without I/O: frames in, frames to send and notices out.

Whoever runs the socket tells it what happens (`opened`, `receive`, `lost`) and then does what lies in `outbox` and
`notices`. Source of the pattern: sans-I/O, sans-io.readthedocs.io.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from msgspec import UNSET, UnsetType

from ai_agent.client.channel_state import ChannelState, Missing
from ai_agent.client.closing import Closing
from ai_agent.client.errors import Refused, SubscriptionEnded, Unreachable
from ai_agent.client.events import EventMap
from ai_agent.client.notices import Connected, Drop, Ended, Failed, Output, Replied, TokenWanted, Trouble
from ai_agent.client.queue_state import QueueState
from ai_agent.domain.channels import ChannelKind
from ai_agent.domain.frames import (
    Ack,
    Auth,
    AuthExpiring,
    Bye,
    ClientFrame,
    ClientInfo,
    Connect,
    EpochChanged,
    ErrorFrame,
    Frame,
    GapFrame,
    Live,
    Pong,
    Reply,
    Resumed,
    ServerPing,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Welcome,
)

FOR_NOW = {"rate_limit_error", "service_unavailable", "timeout_error", "internal_error"}
"""Errors that say nothing about the subscription itself."""

SLOWEST_PING = 1.1
"""A server's pings come within a tenth of their interval."""


@dataclass
class Conversation:
    """Goes on over any number of sockets. `renewable`: there is somebody to ask for another token."""

    client: ClientInfo
    renewable: bool
    outbox: deque[ClientFrame] = field(default_factory=deque)
    notices: deque[Output] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._closing = Closing(renewable=self.renewable)
        self._channels: dict[str, ChannelState] = {}
        self._commands: set[int] = set()
        self._open = False
        self._last_id = 0
        self._handlers: dict[type, Callable[[Any], None]] = {
            Welcome: self._welcome,
            Subscribed: self._subscribed,
            EventMap: self._event,
            Live: lambda frame: self._tell(frame.ch, lambda state: state.live(frame)),
            GapFrame: lambda frame: self._tell(frame.ch, lambda state: state.gap(frame)),
            EpochChanged: lambda frame: self._tell(frame.ch, lambda state: state.epoch(frame)),
            Unsubscribed: self._unsubscribed,
            Reply: self._reply,
            ErrorFrame: self._error,
            ServerPing: lambda frame: self.outbox.append(Pong(id=_given(frame.id))),
            AuthExpiring: self._auth_expiring,
            Bye: self._bye,
        }

    # What happens to the socket

    def opened(self, token: str | None) -> None:
        resume = [entry for state in self._channels.values() if (entry := state.resume())]
        self._send(Connect(id=self._next_id(), token=token, client=self.client, caps=["batch"], resume=resume))

    def receive(self, frame: object) -> None:
        if handler := self._handlers.get(type(frame)):
            handler(frame)

    def lost(self, code: int) -> None:
        """The socket is closed, or could not be opened."""
        self._open = False
        self.outbox.clear()
        for command in sorted(self._commands):
            self.notices.append(Failed(command, Unreachable("The connection was lost before an answer came")))
        self._commands.clear()
        self.notices.append(self._closing.lost(code))

    # What the application wants

    def subscribe(self, wanted: Subscribe) -> None:
        is_queue = wanted.ch.startswith(f"{ChannelKind.USER}:")
        state = self._channels[wanted.ch] = (QueueState if is_queue else ChannelState)(wanted)
        self._ask(state)

    def unsubscribe(self, channel: str) -> None:
        self.settle()
        if self._channels.pop(channel, None) is not None and self._open:
            self._send(Unsubscribe(id=self._next_id(), ch=channel))

    def pause(self, channel: str) -> None:
        """Nothing more of the channel is wanted until `proceed`, which goes on behind the last event."""
        state = self._channels[channel]
        state.paused = True
        if self._open:
            self._send(Unsubscribe(id=self._next_id(), ch=channel))

    def proceed(self, channel: str) -> None:
        if (state := self._channels.get(channel)) is not None:
            state.paused = False
            self._ask(state)

    def acknowledge(self, channel: str, eid: UUID) -> None:
        """The application has done with an event of the user's queue: the server need not keep it."""
        if isinstance(state := self._channels.get(channel), QueueState):
            state.acknowledge(eid)

    def acknowledgements(self) -> list[Ack]:
        """The commands that tell the server what was acknowledged since."""
        queues = [state for state in self._channels.values() if self._open and isinstance(state, QueueState)]
        return [ack for state in queues for ack in state.acknowledgements()]

    def settle(self) -> None:
        """Sends them. One that is not heard is said again when its event comes again."""
        for ack in self.acknowledgements():
            self.command(ack)

    def command(self, frame: Frame) -> int:
        """Sends a command; `Replied` or `Failed` of its number answers."""
        frame.id = self._next_id()
        self._commands.add(frame.id)
        self._send(frame)
        return frame.id

    def renew(self, token: str) -> None:
        if self._open:
            self._send(Auth(id=self._next_id(), token=token))

    # What the server says

    def _welcome(self, frame: Welcome) -> None:
        self._open = True
        self._closing.welcomed()
        silence_ms = frame.heartbeat.ping_ms * SLOWEST_PING + frame.heartbeat.pong_ms
        self.notices.append(Connected(frame.conn, frame.user, silence_ms / 1000))
        resumed = {entry.ch for entry in frame.resumed}
        for entry in frame.resumed:
            self._resumed(entry)
        for state in [state for state in self._channels.values() if state.ch not in resumed]:
            self._ask(state)
        if not any(entry.code in FOR_NOW for entry in frame.resumed):
            self._closing.succeeded()

    def _resumed(self, entry: Resumed) -> None:
        if isinstance(entry.code, str):
            self._end_or_drop(entry.ch, entry.code, entry.code)
        else:
            self._tell(entry.ch, lambda state: state.subscribed(entry))

    def _subscribed(self, frame: Subscribed) -> None:
        state = self._channels.get(frame.ch)
        if state is not None and state.asked == frame.id:
            self.notices.extend(state.subscribed(frame))

    def _event(self, frame: EventMap) -> None:
        try:
            self._tell(frame.ch, lambda state: state.event(frame))
        except Missing:
            self._send(Unsubscribe(id=self._next_id(), ch=frame.ch))
            self._ask(self._channels[frame.ch])

    def _unsubscribed(self, frame: Unsubscribed) -> None:
        if _given(frame.id) is None:  # With an id it is the answer to what we wanted ourselves.
            self._end(frame.ch, f"The subscription was ended: {frame.reason}", frame.reason)

    def _reply(self, frame: Reply) -> None:
        if frame.id in self._commands:
            self._commands.remove(frame.id)
            self.notices.append(Replied(frame.id, frame.data))

    def _error(self, frame: ErrorFrame) -> None:
        state = next((s for s in self._channels.values() if s.asked is not None and s.asked == frame.id), None)
        if state is not None:
            self._end_or_drop(state.ch, frame.message, frame.code)
        elif frame.id in self._commands:
            self._commands.remove(frame.id)
            details = frame.details if isinstance(frame.details, dict) else None
            self.notices.append(Failed(frame.id, Refused(frame.message, frame.code, frame.status, details)))
        elif self._open:
            self.notices.append(Trouble(frame.code, frame.message))
        else:
            self._closing.why = frame.message

    def _auth_expiring(self, _: AuthExpiring) -> None:
        if self.renewable:
            self.notices.append(TokenWanted())

    def _bye(self, frame: Bye) -> None:
        self._closing.bye = frame

    # Within

    def _ask(self, state: ChannelState) -> None:
        if self._open and not state.paused:
            self._send(state.request(self._next_id()))

    def _end_or_drop(self, channel: str, message: str, code: str) -> None:
        """An established subscription is not given up for what passes: the next connection resumes it."""
        state = self._channels.get(channel)
        if state is not None and state.position is not None and code in FOR_NOW:
            self.notices.append(Drop())
        else:
            self._end(channel, message, code)

    def _end(self, channel: str, message: str, reason: str) -> None:
        if self._channels.pop(channel, None) is not None:
            self.notices.append(Ended(channel, SubscriptionEnded(message, channel, reason)))

    def _tell(self, channel: str, what: Callable[[ChannelState], Iterable[Output]]) -> None:
        if (state := self._channels.get(channel)) is not None:
            self.notices.extend(what(state))

    def _send(self, frame: Any) -> None:
        self.outbox.append(frame)

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id


def _given(command: int | UnsetType) -> int | None:
    return None if command is UNSET else command
