"""One socket: what comes in is checked and handed on, never waited for; what goes out is written by one task."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog
from litestar.types import WebSocketScope
from msgspec import UNSET, Struct, field

from ai_agent.api.websocket.auth import Authenticator, Login
from ai_agent.api.websocket.calls import Calls
from ai_agent.api.websocket.channels import Channels
from ai_agent.api.websocket.command_rate import CommandRate
from ai_agent.api.websocket.connection_manager import ConnectionManager
from ai_agent.api.websocket.errors import (
    BadFrame,
    FrameError,
    LimitReached,
    NotConnected,
    TooManyCommands,
    closed_with,
    error_frame,
)
from ai_agent.api.websocket.event_handlers import HANDLERS, answered
from ai_agent.api.websocket.expiry import Expiry
from ai_agent.api.websocket.heartbeat import Heartbeat
from ai_agent.api.websocket.protocol import WRITE, Codec, Message, Receive, Send, WrongCodec, decode
from ai_agent.api.websocket.subscriptions import GapRefused, Subscription
from ai_agent.api.websocket.turns import Turns
from ai_agent.api.websocket.writer import Writer
from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.fields import new_id, now
from ai_agent.domain.frames import (
    ClientFrame,
    ClientInfo,
    CloseCode,
    Connect,
    Drain,
    Ping,
    Pong,
    ServerPong,
    Unsubscribed,
)
from ai_agent.domain.identity import Principal
from ai_agent.settings import Settings

CONNECT_SECONDS = 10.0
AGE_SECONDS = 6 * 3600.0
AGE_JITTER = 0.2
COME_BACK_MS = 500
"""Up to so long a client waits that was let go: those that go together do not come back together."""
FLUSH_SECONDS = 5.0
"""So long what is queued may take to be written before a socket is closed all the same, and what was asked to be
answered before it is let go."""
COMMANDS_AT_ONCE = 200

log = structlog.get_logger()


class Rooms(Struct, frozen=True):
    """What all sockets of a node share."""

    settings: Settings
    authenticator: Authenticator
    manager: ConnectionManager
    channels: Channels
    calls: Calls
    turns: Turns = field(default_factory=Turns)


class Connection:
    """`login` says who is at the other end, from `connect` on."""

    login: Login

    def __init__(self, rooms: Rooms, scope: WebSocketScope, receive: Receive, send: Send, codec: Codec):
        self.rooms = rooms
        self.scope = scope
        self.conn_id = str(new_id())
        self.correlation_id: str = scope["correlation_id"]  # type: ignore[typeddict-item]  # ours
        self.address: str = scope["client_address"]  # type: ignore[typeddict-item]  # ours
        self.opened_at = now()
        self.client = ClientInfo()
        self.upgraded: Login | None = None
        """Who was known when the socket was opened; `connect` may name somebody else."""
        self.joins: str | None = None
        """A channel to subscribe to as soon as the conversation is open."""
        self.is_open = False
        """Whether `connect` was answered with `welcome`."""
        self.batch = False
        """Whether the client may send several frames in an array."""
        self.subscriptions: dict[str, Subscription | None] = {}
        """By channel; None while one is being made."""
        self._receive = receive
        self._codec = codec
        write = (scope.get("extensions") or {}).get(WRITE)
        self._writer = Writer(send, write, codec, self, rooms.turns)  # type: ignore[arg-type]  # our server's
        seconds = rooms.settings.ws_ping_seconds, rooms.settings.ws_pong_seconds
        self.heartbeat = Heartbeat(*seconds, self._writer.ping, partial(self.end, CloseCode.HEARTBEAT))
        self.expiry = Expiry(self.put, partial(self.end, CloseCode.TOKEN_EXPIRED))
        self._rate = CommandRate()
        self._connecting: asyncio.Task[None] | None = None
        self._newest: dict[str, asyncio.Task[None]] = {}
        """The last command for each channel: those for one are done in order."""
        self._commands: set[asyncio.Task[None]] = set()
        self._asides: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []

    async def run(self) -> None:
        """Until the socket is closed."""
        self._writing = asyncio.create_task(self._write())
        self._later(CONNECT_SECONDS, self._connect_timed_out)
        age = AGE_SECONDS * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311  # no secret
        self._later(age, self._go)
        try:
            await self._know_upgraded()
            self.scope["close_code"] = await self._read()  # type: ignore[typeddict-unknown-key]  # ours, for the log
        finally:
            await self._leave()

    @property
    def principal(self) -> Principal:
        return self.login.principal

    def authenticated(self, login: Login) -> None:
        self.login = login
        self.scope["caller"] = login.principal  # type: ignore[typeddict-unknown-key]  # ours, for the log

    @property
    def queued_bytes(self) -> int:
        return self._writer.queued_bytes

    def put(self, frame: Struct) -> None:
        """Queues a frame for the client."""
        if self._writer.code is None:
            self._writer.put(frame)

    def refuse(self, error: Exception, frame_id: int | None = None, channel: str | None = None) -> None:
        self.put(error_frame(error, self.correlation_id, frame_id=frame_id, channel=channel))

    def end(self, code: CloseCode, after_ms: int | None = None) -> None:
        """Begins to close: what is queued is written, then `bye`, then the code."""
        if self._writer.code is None:
            self._writer.finish(code, after_ms)
            self._later(FLUSH_SECONDS, self._cut)

    def drain(self, seconds: float) -> None:
        """Tells the client that it has to go in so many seconds, and then lets it go."""
        if self.is_open:
            self.put(Drain(after_ms=round(seconds * 1000), reason="deploy"))
        self._later(seconds, self._go)

    async def close(self, code: CloseCode, after_ms: int | None = None) -> None:
        """Closes, and waits until the client was told."""
        self.end(code, after_ms)
        await asyncio.wait([self._writing])

    def ready(self, subscription: Subscription) -> None:
        self._writer.ready(subscription)

    def fill(self, subscription: Subscription) -> None:
        self._aside(self._fill(subscription))

    def pinged(self) -> None:
        self.heartbeat.pinged()

    def resource_gone(self, subscription: Subscription) -> None:
        self._aside(self.unsubscribe(subscription.name, "deleted"))

    async def unsubscribe(self, channel: str, reason: str, frame_id: int | None = None) -> None:
        """Ends a subscription, and says why."""
        subscription = self.subscriptions.pop(channel, None)
        self.put(Unsubscribed(id=UNSET if frame_id is None else frame_id, ch=channel, reason=reason))
        if subscription is not None:
            self.rooms.manager.changed(self)
            self._writer.forget(subscription)
            await subscription.close()

    async def _know_upgraded(self) -> None:
        try:
            self.rooms.manager.enter(self)
            self.upgraded = await self.rooms.authenticator.on_upgrade(self.scope)
        except AIAgentError as error:
            self.turn_away(error)

    def turn_away(self, error: AIAgentError, frame_id: int | None = None) -> None:
        """Says why nobody is let in, and closes."""
        self.refuse(error, frame_id)
        self.end(closed_with(error))

    async def _read(self) -> int:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return int(self._writer.code or message.get("code") or CloseCode.NORMAL)
            if self._writer.code is None:
                self._take(message)

    def _take(self, message: Message) -> None:
        try:
            for frame in decode(self._codec.received(message), batch=self.batch):
                self._handle(frame)
        except WrongCodec:
            self.end(CloseCode.UNSUPPORTED_DATA)
        except BadFrame as error:
            self._note_bad(error)

    def _handle(self, frame: ClientFrame | FrameError) -> None:
        at = asyncio.get_running_loop().time()
        wait_ms = self._rate.take(at)
        if isinstance(frame, BadFrame):
            self._note_bad(frame)
        elif isinstance(frame, Pong):
            answered(self, frame)
        elif wait_ms:
            self.refuse(TooManyCommands(wait_ms), frame.id)
        elif isinstance(frame, FrameError):
            self.refuse(frame, frame.id)
        else:
            self._command(frame)
        if self._rate.is_flood(at):
            self.end(CloseCode.RATE_LIMIT)

    def _note_bad(self, error: BadFrame) -> None:
        self.refuse(error, error.id)
        if self._rate.is_garbage(asyncio.get_running_loop().time()):
            self.end(CloseCode.BAD_FRAME)

    def _command(self, frame: ClientFrame) -> None:
        if self._connecting is None and not isinstance(frame, Connect):
            self.refuse(NotConnected("The first frame is connect"), frame.id)
            self.end(CloseCode.UNAUTHENTICATED)
        elif isinstance(frame, Ping):
            self.put(ServerPong(id=UNSET if frame.id is None else frame.id))
        elif len(self._commands) >= COMMANDS_AT_ONCE:
            self.refuse(LimitReached(f"{COMMANDS_AT_ONCE} commands are being worked on already"), frame.id)
        else:
            self._start(frame)

    def _start(self, frame: ClientFrame) -> None:
        channel = getattr(frame, "ch", "")
        before = [task for task in (self._connecting, self._newest.get(channel)) if task and not task.done()]
        task = asyncio.create_task(self._run(frame, before))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        if self._connecting is None:
            self._connecting = task
        if channel:
            self._newest[channel] = task
            task.add_done_callback(partial(self._forget_command, channel))

    def _forget_command(self, channel: str, task: asyncio.Task[None]) -> None:
        if self._newest.get(channel) is task:
            del self._newest[channel]

    async def _run(self, frame: ClientFrame, before: list[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
            if not self.is_open:
                return  # It came behind a connect that was refused.
        try:
            await HANDLERS[type(frame)](self, frame)
        except Exception as error:  # told to the client, and logged where it is not ours
            self.refuse(error, frame.id, getattr(frame, "ch", None))
            if not self.is_open:
                self.end(CloseCode.INTERNAL)

    async def _fill(self, subscription: Subscription) -> None:
        try:
            await subscription.fill()
        except Exception as error:  # as above
            self.refuse(error, channel=subscription.name)
            await self.unsubscribe(subscription.name, "gap" if isinstance(error, GapRefused) else "failed")

    async def _write(self) -> None:
        try:
            await self._writer.run()
        except OSError:
            return  # The client has left: who reads hears of it, too.
        except Exception:
            log.exception("socket_writer_crashed")
            self.end(CloseCode.INTERNAL)
            self._cut()

    def _go(self) -> None:
        self._aside(self._let_go())

    async def _let_go(self) -> None:
        """To another node, with the answers to what it has asked."""
        if self._commands:
            await asyncio.wait(self._commands, timeout=FLUSH_SECONDS)
        self.end(CloseCode.DRAINING, random.randrange(COME_BACK_MS))  # noqa: S311  # no secret

    def _cut(self) -> None:
        self._writing.cancel()
        self._aside(self._writer.cut())

    def _connect_timed_out(self) -> None:
        if self._connecting is None:
            self.refuse(NotConnected("No connect came in time"))
            self.end(CloseCode.CONNECT_TIMEOUT)

    def _later(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, call, *arguments))

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _leave(self) -> None:
        """Lets commands that were begun end, as a request's would, and gives everything back."""
        self.heartbeat.stop()
        self.expiry.stop()
        self._writer.stop()
        for timer in self._timers:
            timer.cancel()
        for task in (self._writing, *self._asides):
            task.cancel()
        await asyncio.gather(self._writing, *self._asides, *self._commands, return_exceptions=True)
        for subscription in filter(None, self.subscriptions.values()):
            await subscription.close()
        await self.rooms.manager.remove(self)
