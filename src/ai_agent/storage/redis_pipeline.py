"""Calls of one script, for many callers: those that wait in the same moment go together."""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ai_agent.storage.redis import Argument, Command, RedisError, RedisWire, Reply

if TYPE_CHECKING:
    from redis.asyncio import Redis

AT_ONCE = 500
ANSWER_SECONDS = 0.5
"""Two, one behind the other, are the longest that a caller waits."""


class Call(Protocol):
    """One of `answered` and `failed` is called, once; `arguments` also more than once."""

    def arguments(self) -> Sequence[Argument]:
        """Keys and arguments, behind their number of keys, as of the moment that they are sent."""

    def answered(self, reply: Reply) -> None: ...

    def failed(self, error: Exception) -> None: ...


class Asked:
    """A call whose reply is awaited."""

    def __init__(self, *arguments: Argument):
        self._arguments = arguments
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def arguments(self) -> Sequence[Argument]:
        return self._arguments

    def answered(self, reply: Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def failed(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class RedisPipeline:
    """While calls are under way, the next ones gather. What fails is not tried again: nobody knows whether it was done.

    `first` are the calls that a new connection begins with; `heard` is told when calls were sent that were answered.
    """

    def __init__(
        self,
        redis: "Redis",
        script: str,
        first: Callable[[], Iterable[Call]] = tuple,
        heard: Callable[[float], None] = lambda _: None,
    ):
        self._wire = RedisWire(redis, ANSWER_SECONDS)
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._first = first
        self._heard = heard
        self._waiting: deque[Call] = deque()
        self._loaded = False
        self._busy = False
        self._connecting: asyncio.Task[None] | None = None

    def send(self, call: Call) -> None:
        self._waiting.append(call)
        self._begin()

    def send_first(self, call: Call) -> None:
        """Before all that wait."""
        self._waiting.appendleft(call)
        self._begin()

    def _begin(self) -> None:
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._turn)

    def close(self) -> None:
        self._wire.close()

    def _turn(self) -> None:
        if not self._waiting:
            self._busy = False
        elif self._wire.connected:
            calls = [self._waiting.popleft() for _ in range(min(len(self._waiting), AT_ONCE))]
            self._ask(calls)
        else:
            # In a context of its own: it is no part of the request that meets the closed connection.
            self._connecting = asyncio.create_task(self._connect(), context=Context())

    def _ask(self, calls: list[Call]) -> None:
        commands: list[Command] = [("EVALSHA", self._sha, *call.arguments()) for call in calls]
        if not self._loaded:
            commands.insert(0, ("SCRIPT", "LOAD", self._script))
        self._wire.ask(commands, partial(self._answered, calls, time.monotonic()))

    async def _connect(self) -> None:
        try:
            await self._wire.connect()
        except Exception as error:
            self._fail([], error)
        else:
            self._loaded = False
            self._waiting.extendleft(reversed(list(self._first())))
        self._turn()

    def _answered(self, calls: list[Call], sent_at: float, outcome: list[Reply] | Exception) -> None:
        if isinstance(outcome, Exception):
            self._fail(calls, outcome)
        else:
            unknown = self._settle(calls, outcome[-len(calls) :])
            self._loaded = not unknown
            self._waiting.extendleft(reversed(unknown))
            self._heard(sent_at)
        self._turn()

    def _settle(self, calls: list[Call], replies: list[Reply]) -> list[Call]:
        """Answers those to whom the server did not know the script."""
        unknown: list[Call] = []
        for call, reply in zip(calls, replies, strict=True):
            if not isinstance(reply, RedisError):
                call.answered(reply)
            elif str(reply).startswith("NOSCRIPT"):
                unknown.append(call)
            else:
                # It may have become a replica, or have lost what it knew: a new connection begins from the start.
                self._wire.close()
                call.failed(reply)
        return unknown

    def _fail(self, calls: list[Call], error: Exception) -> None:
        """Also for whoever waits behind: they have waited as long."""
        late, self._waiting = self._waiting, deque()
        for call in (*calls, *late):
            call.failed(error)
