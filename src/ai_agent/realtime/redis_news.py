"""Hears what is published in Redis, on one connection: each channel once, while anybody listens to it."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.observability.realtime_metrics import BROKER_RECONNECTS
from ai_agent.storage.redis import RedisError, RedisSocket, Reply

if TYPE_CHECKING:
    from redis.asyncio import Redis

CONFIRM_SECONDS = 1.0
PING_SECONDS = 0.5
SILENT_SECONDS = 1.0
"""A connection on which so long nothing was heard, though it was asked, is dead."""
RECONNECT_SECONDS = 0.1
AT_ONCE = 500

log = structlog.get_logger()


class _Channel:
    def __init__(self) -> None:
        self.listeners = 0
        self.confirmed = asyncio.Event()


class RedisNews:
    """`heard` is called with a channel and what was published there; `missed` when it may not have heard all."""

    def __init__(self, redis: "Redis", heard: Callable[[str, bytes], None], missed: Callable[[], None]):
        self._redis = redis
        self._heard = heard
        self._missed = missed
        self._channels: dict[str, _Channel] = {}
        self._asked: Counter[str] = Counter()
        """How many confirmations of a channel are to come: only the last one tells of what was asked last."""
        self._socket: RedisSocket | None = None
        self._ended: asyncio.Future[Exception]
        self._heard_at = 0.0
        self._connected_before = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        await cancel_and_wait(self._task)

    @contextlib.asynccontextmanager
    async def listening(self, name: str) -> AsyncIterator[None]:
        """In the block, everything is heard that is published. Raises ServiceUnavailable."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
            self._subscribe([name])
        channel.listeners += 1
        try:
            await _confirmed(channel)
            yield
        finally:
            channel.listeners -= 1
            if not channel.listeners:
                self._unsubscribe(name)

    def _subscribe(self, names: Sequence[str]) -> None:
        if self._socket is not None:
            for start in range(0, len(names), AT_ONCE):
                some = names[start : start + AT_ONCE]
                self._asked.update(some)
                self._socket.say([("SUBSCRIBE", *some)])

    def _unsubscribe(self, name: str) -> None:
        self._channels.pop(name).confirmed.set()
        if self._socket is not None:
            self._socket.say([("UNSUBSCRIBE", name)])

    async def _run(self) -> None:
        while True:
            try:
                await self._hear()
            except Exception as error:
                log.warning("event_log_unheard", reason=str(error) or type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _hear(self) -> None:
        """Until the connection ends, and raises what it ended with."""
        self._ended = asyncio.get_running_loop().create_future()
        socket = RedisSocket(self._answered, self._end)
        await socket.connect(self._redis)
        self._asked.clear()
        self._socket, self._heard_at = socket, time.monotonic()
        subscribing = asyncio.create_task(self._subscribe_again())
        try:
            either: list[asyncio.Future[Any]] = [subscribing, self._ended]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            while not self._ended.done():
                self._ping(socket)
                await asyncio.wait([self._ended], timeout=PING_SECONDS)
            raise self._ended.result()
        finally:
            subscribing.cancel()
            self._socket = None
            socket.abort()

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    def _ping(self, socket: RedisSocket) -> None:
        if time.monotonic() > self._heard_at + SILENT_SECONDS:
            self._end(TimeoutError("No answer"))
        else:
            socket.say([("PING",)])

    async def _subscribe_again(self) -> None:
        channels = list(self._channels.values())
        for channel in channels:
            channel.confirmed.clear()
        self._subscribe(list(self._channels))
        try:
            for channel in channels:
                await _confirmed(channel)
        except ServiceUnavailable as error:
            self._end(error)
        if self._connected_before:
            BROKER_RECONNECTS.inc()
            self._missed()
        self._connected_before = True

    def _answered(self, reply: Reply) -> None:
        self._heard_at = time.monotonic()
        if isinstance(reply, RedisError):
            self._end(reply)  # It loads what it kept, or refuses us: the next connection finds out.
        elif isinstance(reply, list) and reply[0] == b"message":
            _, name, payload = cast(list[bytes], reply)
            self._heard(name.decode(), payload)
        elif isinstance(reply, list) and reply[0] == b"subscribe":
            self._subscribed(cast(bytes, reply[1]).decode())

    def _subscribed(self, name: str) -> None:
        self._asked[name] -= 1
        if not self._asked[name]:
            del self._asked[name]
            if channel := self._channels.get(name):
                channel.confirmed.set()


async def _confirmed(channel: _Channel) -> None:
    if not channel.confirmed.is_set():
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                await channel.confirmed.wait()
        except TimeoutError as error:
            raise ServiceUnavailable("The event log cannot be listened to") from error
