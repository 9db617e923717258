"""Redis as the request path needs it: it answers soon, or counts as away."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import hiredis

from ai_agent.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import Redis

ANSWER_SECONDS = 0.25


def connect(url: str, *, answer_seconds: float = ANSWER_SECONDS, reconnect: bool = False) -> "Redis":
    """A client; nothing is connected yet. With `reconnect` a command is said again once when its connection was dead.

    Raises ConfigurationError for an address nobody understands.
    """
    # Imported only where there is one: it takes 0.15 s of a start.
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Disconnected

    try:
        # Its own retries would make a frozen server cost seconds.
        return Redis.from_url(
            url,
            socket_timeout=answer_seconds,
            socket_connect_timeout=answer_seconds,
            retry=Retry(NoBackoff(), int(reconnect), (Disconnected,)),
            protocol=2,
        )
    except ValueError as error:
        hint = "Use redis://host:6379/0, rediss://… or unix://…"
        raise ConfigurationError("AI_AGENT_REDIS_URL is not an address that is understood", hint) from error


Argument = str | bytes | int
Command = Sequence[Argument]


class RedisError(Exception):
    """What Redis says is wrong: an answer, as others are."""


Reply = bytes | int | None | RedisError | list["Reply"]
Answered = Callable[[list[Reply] | Exception], None]


_packed = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)
"""Its own types allow commands of one word."""


class RedisSocket(asyncio.Protocol):
    """Writes commands, and hands on what is answered, one reply after the other. `lost` is called when the other side
    ends it.

    The client connects, authenticates and speaks TLS; from then on commands are written and answers read without it,
    and without a task: that costs half of the CPU. Source: redis.io, "Redis serialization protocol" (RESP 2).
    """

    def __init__(self, answered: Callable[[Reply], None], lost: Callable[[Exception], None]):
        self._answered = answered
        self._lost = lost
        self._reader = hiredis.Reader(replyError=RedisError)
        self._aborted = False

    async def connect(self, redis: "Redis") -> None:
        """Raises OSError, TimeoutError, and what the client raises."""
        connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # its own fault
        async with asyncio.timeout(ANSWER_SECONDS):
            await connection.connect()
        # The client keeps its socket to itself, and has no way to give it away.
        writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
        self._writer: asyncio.StreamWriter = writer  # Its end would close the socket.
        self._transport: asyncio.WriteTransport = writer.transport
        self._transport.set_protocol(self)

    @property
    def closed(self) -> bool:
        return bool(self._transport.is_closing())

    def say(self, commands: Iterable[Command]) -> None:
        self._transport.write(b"".join([_packed(tuple(command)) for command in commands]))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._answered(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # as asyncio calls it
        if not self._aborted:
            self._lost(ConnectionError("The connection was lost"))

    def abort(self) -> None:
        self._aborted = True
        self._transport.abort()


class RedisWire:
    """One pipeline of commands after the other on a connection of its own, for the request path."""

    def __init__(self, redis: "Redis", answer_seconds: float = ANSWER_SECONDS):
        self._redis = redis
        self._seconds = answer_seconds
        self._socket: RedisSocket | None = None
        self._wanted = 0
        self._replies: list[Reply] = []
        self._tell: Answered | None = None
        self._too_late: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """False also for a connection that was closed for idleness: nothing was sent on it."""
        return self._socket is not None and not self._socket.closed

    async def connect(self) -> None:
        """Raises OSError, TimeoutError, and what the client raises."""
        socket = RedisSocket(self._answered, self._settle)
        await socket.connect(self._redis)
        self._socket = socket

    def ask(self, commands: Sequence[Command], answered: Answered) -> None:
        """Sends commands when those before have their answers, and `answered` is called with as many replies, or with
        what went wrong: OSError or TimeoutError. There must be a connection.
        """
        assert self._socket is not None  # noqa: S101  # see `connected`
        self._wanted, self._replies, self._tell = len(commands), [], answered
        self._too_late = asyncio.get_running_loop().call_later(self._seconds, self._give_up)
        self._socket.say(commands)

    def _answered(self, reply: Reply) -> None:
        self._replies.append(reply)
        if len(self._replies) == self._wanted:
            self._settle(self._replies)

    def _give_up(self) -> None:
        # An answer that comes late would be taken for that to the next command.
        self._end(TimeoutError("No answer"))

    def _settle(self, outcome: list[Reply] | Exception) -> None:
        tell, self._tell = self._tell, None
        if self._too_late is not None:
            self._too_late.cancel()
        if tell is not None:
            tell(outcome)

    def close(self) -> None:
        self._end(ConnectionError("The connection was closed"))

    def _end(self, error: Exception) -> None:
        if self._socket is not None:
            self._socket.abort()
            self._socket = None
        self._settle(error)
