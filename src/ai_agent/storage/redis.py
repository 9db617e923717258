"""Redis as the request path needs it: it answers soon, or counts as away."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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


Answered = Callable[[bytes | Exception], None]


class RedisError(Exception):
    """What Redis says is wrong."""


class RedisWire:
    """One command after the other on a connection of its own, for the request path.

    The client connects, authenticates and speaks TLS; from then on commands are written and answers read without it,
    and without a task: that costs half of the CPU.
    """

    def __init__(self, redis: "Redis"):
        self._redis = redis
        self._connection: _Connection | None = None

    @property
    def connected(self) -> bool:
        """False also for a connection that was closed for idleness: nothing was sent on it."""
        return self._connection is not None and not self._connection.closed

    async def connect(self) -> None:
        """Raises OSError, TimeoutError, and what the client raises."""
        connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # its own fault
        async with asyncio.timeout(ANSWER_SECONDS):
            await connection.connect()
        # The client keeps its socket to itself, and has no way to give it away.
        writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
        self._connection = _Connection(writer)

    def ask(self, arguments: Sequence[str], answered: Answered) -> None:
        """Sends a command when the one before has its answer, and `answered` is called with a text, or what went wrong:
        RedisError, OSError or TimeoutError. There must be a connection.
        """
        assert self._connection is not None  # noqa: S101  # see `connected`
        self._connection.ask(arguments, answered)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.settle(ConnectionError("The connection was closed"))
            self._connection = None


class _Connection(asyncio.Protocol):
    """Writes a command, and reads its answer. Source: redis.io, "Redis serialization protocol" (RESP 2)."""

    def __init__(self, writer: asyncio.StreamWriter):
        self._writer = writer  # Its end would close the socket.
        self._transport = writer.transport
        self._transport.set_protocol(self)
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._answered: Answered | None = None
        self._too_late: asyncio.TimerHandle | None = None

    @property
    def closed(self) -> bool:
        return self._transport.is_closing()

    def ask(self, arguments: Sequence[str], answered: Answered) -> None:
        parts = [b"*%d\r\n" % len(arguments)]
        for argument in arguments:
            encoded = argument.encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(encoded), encoded))
        self._answered = answered
        self._too_late = self._loop.call_later(ANSWER_SECONDS, self.settle, TimeoutError("No answer"))
        self._transport.write(b"".join(parts))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n")
        kind, body = head[:1], head[1:]
        if kind == b"$" and found and body != b"-1":
            length = int(body)
            found = rest[length : length + 2]
            body = rest[:length]
        if len(found) == 2:
            self._buffer = b""
            self._tell(RedisError(body.decode()) if kind == b"-" else body)

    def _tell(self, outcome: bytes | Exception) -> None:
        answered, self._answered = self._answered, None
        if self._too_late is not None:
            self._too_late.cancel()
        if answered is not None:
            answered(outcome)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # as asyncio calls it
        self._tell(ConnectionError("The connection was lost"))

    def settle(self, error: Exception) -> None:
        """Ends it: an answer that comes late would be taken for that to the next command."""
        self._transport.abort()
        self._tell(error)
