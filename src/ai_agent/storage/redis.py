"""Redis as the request path needs it: it answers soon, or counts as away."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ai_agent.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import Redis

ANSWER_SECONDS = 0.25


def connect(url: str) -> "Redis":
    """A client; nothing is connected yet. Raises ConfigurationError for an address nobody understands."""
    # Imported only where there is one: it takes 0.15 s of a start.
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    try:
        # Its own retries would make a frozen server cost seconds.
        return Redis.from_url(
            url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except ValueError as error:
        hint = "Use redis://host:6379/0, rediss://… or unix://…"
        raise ConfigurationError("AI_AGENT_REDIS_URL is not an address that is understood", hint) from error


class RedisError(Exception):
    """What Redis says is wrong."""


class RedisWire:
    """Commands on a connection of their own, for the request path.

    The client connects, authenticates and speaks TLS; from then on commands are written and answers read without it:
    that costs 30 µs of CPU a command where the client takes 100.
    """

    def __init__(self, redis: "Redis"):
        self._redis = redis
        self._connected: _Answers | None = None

    async def call(self, *arguments: str) -> bytes:
        """The answer to a command: a text or a number. Raises RedisError, OSError, TimeoutError."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answers = self._connected or await self._connect()
                return await answers.to(arguments)
        except RedisError:
            raise
        except BaseException:
            # An answer that comes late would be taken for that to the next command.
            self.close()
            raise

    async def _connect(self) -> "_Answers":
        connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # its own fault
        try:
            await connection.connect()
        except Exception as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        # The client keeps its socket to itself, and has no way to give it away.
        writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
        self._connected = _Answers(writer)
        writer.transport.set_protocol(self._connected)
        return self._connected

    def close(self) -> None:
        if self._connected is not None:
            self._connected.abort()
            self._connected = None


class _Answers(asyncio.Protocol):
    """Reads answers, in the order of the commands. Source: redis.io, "Redis serialization protocol" (RESP 2)."""

    def __init__(self, writer: asyncio.StreamWriter):
        self._writer = writer  # Its end would close the socket.
        self._transport = writer.transport
        self._buffer = b""
        self._waiting: deque[asyncio.Future[bytes]] = deque()

    def to(self, arguments: Sequence[str]) -> "asyncio.Future[bytes]":
        if self._transport.is_closing():
            raise ConnectionError("The connection was closed")
        parts = [b"*%d\r\n" % len(arguments)]
        for argument in arguments:
            encoded = argument.encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(encoded), encoded))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._transport.write(b"".join(parts))
        return answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._waiting and self._next():
            pass

    def _next(self) -> bool:
        """Gives the first answer to whom it belongs; False when some of it is still to come."""
        head, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        body = head[1:]
        if head[:1] == b"$" and body != b"-1":
            length = int(body)
            if len(rest) < length + 2:
                return False
            body, rest = rest[:length], rest[length + 2 :]
        self._buffer = rest
        answer = self._waiting.popleft()
        if answer.done():
            return True
        if head[:1] == b"-":
            answer.set_exception(RedisError(body.decode()))
        else:
            answer.set_result(body)
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # as asyncio calls it
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(ConnectionError("The connection was lost"))
        self._waiting.clear()

    def abort(self) -> None:
        self._transport.abort()
