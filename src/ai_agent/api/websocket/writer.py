"""What is written to a socket, and when: answers first, then what channels have to tell, when the client takes it.

While the client takes it, it is written without a task: an event costs no switch, no time-out and no encoding of its
own. A task writes the rest, which has to wait. That a client takes nothing is seen by a timer, which looks now and then
whether anything was written.
"""

import asyncio
import time
from typing import Protocol

import msgspec

from ai_agent.api.websocket.protocol import Codec, Message, Send, Write, closing, farewell
from ai_agent.api.websocket.subscriptions import Subscription
from ai_agent.api.websocket.turns import Turns
from ai_agent.domain.frames import CloseCode, ServerPing

QUEUED_FRAMES = 1000
QUEUED_BYTES = 1024 * 1024
WRITE_SECONDS = 10.0
BEHIND_SECONDS = 30.0
LOOK_SECONDS = 2.5
"""How often it is looked whether the client takes anything."""


class Owner(Protocol):
    """Whose socket it is."""

    def fill(self, subscription: Subscription) -> None:
        """Nothing can be taken from it before the log is read; calls its `news` after that."""

    def resource_gone(self, subscription: Subscription) -> None:
        """All was told, and what it is about is gone."""

    def pinged(self) -> None:
        """A ping was written."""

    def end(self, code: CloseCode) -> None: ...


class Writer:
    """`write` is the server's way to write without waiting, where it has one."""

    def __init__(self, send: Send, write: Write | None, codec: Codec, owner: Owner, turns: Turns):
        self._send = send
        self._write = write
        self._codec = codec
        self._owner = owner
        self._turns = turns
        self._ping = codec.frame(ServerPing())
        # Lists, not deques: those take 700 bytes each also when they are empty, and these are short.
        self._taken: list[Message] = []
        """Of channels; before all else, so that a subscription's last word comes behind its events."""
        self._frames: list[Message] = []
        self.queued_bytes = 0
        self._ready: list[Subscription] = []
        self._idle: asyncio.Future[None] | None = None
        self._has_turn = False
        self._fault: Exception | None = None
        self._behind: dict[Subscription, float] = {}
        """Since when those that had all are behind."""
        self._written = 0
        self._seen = -1
        self._stalled = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.code: CloseCode | None = None
        """Why the socket is being closed."""

    def put(self, frame: msgspec.Struct) -> None:
        """Queues an answer. A client that lets too many wait is closed."""
        self._queue(self._codec.frame(frame))

    def ping(self) -> None:
        self._queue(self._ping)

    def ready(self, subscription: Subscription) -> None:
        """There is something to take."""
        self._ready.append(subscription)
        self._wake()

    def finish(self, code: CloseCode, after_ms: int | None = None) -> None:
        """Says goodbye, behind all that is queued, and closes. The first reason is the one that counts."""
        if self.code is not None:
            return
        self.code = code
        self._bye = self._codec.frame(farewell(code, after_ms))
        self._frames.append(self._bye)
        self.queued_bytes += _size(self._bye)
        self._wake()

    async def run(self) -> None:
        """Until the socket is closed. Raises OSError when the client has left."""
        while True:
            while (message := self._next()) is not None:
                await self._send(message)
                self._wrote(message)
            if self.code is not None:
                await self._send(closing(self.code))
                return
            await self._rest()
            if self._fault is not None:
                raise self._fault

    def write_at_once(self) -> None:
        """Writes what does not have to wait. `run` writes the rest, and closes."""
        self._has_turn = False
        if self._write is None or not self._rests():
            return
        try:
            while self.code is None:
                if (message := self._next()) is None:
                    return
                if not self._write(message):
                    self._taken.insert(0, message)
                    break
                self._wrote(message)
        except Exception as error:  # whatever it is, it is `run` that failed
            self._fault = error
        self._wake_task()

    async def cut(self) -> None:
        """Closes a socket that takes nothing: `bye` and the code are there for a client that still reads."""
        await self._send(closing(self.code or CloseCode.INTERNAL) | {"farewell": self._bye})

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def forget(self, subscription: Subscription) -> None:
        self._behind.pop(subscription, None)

    def _queue(self, message: Message) -> None:
        self._frames.append(message)
        self.queued_bytes += _size(message)
        if len(self._frames) > QUEUED_FRAMES or self.queued_bytes > QUEUED_BYTES:
            self._owner.end(CloseCode.SLOW_CONSUMER)
        self._wake()

    def _rests(self) -> bool:
        """Whether `run` has nothing to do."""
        return self._idle is not None and not self._idle.done()

    def _wake(self) -> None:
        if not self._rests():
            return
        if self._write is None or self.code is not None:
            self._wake_task()
        elif not self._has_turn:
            self._has_turn = True
            self._turns.add(self)

    def _wake_task(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _rest(self) -> None:
        # By hand: an Event costs more, for each delivery.
        self._idle = asyncio.get_running_loop().create_future()
        await self._idle
        self._idle = None
        if self._timer is None:
            self._arm()

    def _next(self) -> Message | None:
        """What is to be written now. No events any more when the socket is being closed."""
        while not self._taken:
            if self._frames:
                message = self._frames.pop(0)
                self.queued_bytes -= _size(message)
                return message
            if not self._ready or self.code is not None:
                return None
            self._take(self._ready.pop(0))
        return self._taken.pop(0)

    def _wrote(self, message: Message) -> None:
        self._written += 1
        if message is self._ping:
            self._owner.pinged()

    def _take(self, subscription: Subscription) -> None:
        if subscription.closed:
            return
        messages = subscription.take(self._codec)
        if messages is None:
            self._fall_behind(subscription)
            return
        self._taken.extend(messages)
        if self._behind and subscription.live:
            self.forget(subscription)
        if subscription.gone:
            self._owner.resource_gone(subscription)

    def _fall_behind(self, subscription: Subscription) -> None:
        if subscription.told_live:
            self._behind.setdefault(subscription, time.monotonic())
        self._owner.fill(subscription)

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Whether the client takes anything, and comes nearer. Not while all is written."""
        self._timer = None
        if self._idle is not None or self.code is not None:
            self._seen = -1
            return
        self._stalled = self._stalled + LOOK_SECONDS if self._written == self._seen else 0.0
        self._seen = self._written
        if self._stalled >= WRITE_SECONDS or self._is_behind():
            self._owner.end(CloseCode.SLOW_CONSUMER)
        else:
            self._arm()

    def _is_behind(self) -> bool:
        """Whether a subscription that had all could not keep up for too long; not because the log is away."""
        long_ago = time.monotonic() - BEHIND_SECONDS
        return any(since < long_ago and not subscription.filling for subscription, since in self._behind.items())


def _size(message: Message) -> int:
    return len(message.get("text") or message.get("bytes") or b"")
