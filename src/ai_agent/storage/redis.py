"""Redis as the request path needs it: it answers soon, or counts as away."""

import asyncio
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
    """Commands on a connection of their own, one after the other, for the request path.

    The client connects, authenticates and speaks TLS; from then on commands are written and answers read without it:
    that costs 30 µs of CPU a command where the client takes 100.
    """

    def __init__(self, redis: "Redis"):
        self._redis = redis
        self._turn = asyncio.Lock()
        self._connected: _Connection | None = None

    async def call(self, *arguments: str) -> bytes:
        """The answer to a command: a text or a number. Raises RedisError, OSError, TimeoutError."""
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    # One that was closed for idleness is no sign of trouble: nothing was sent on it.
                    if self._connected is None or self._connected.closed:
                        self._connected = await self._connect()
                    return await self._connected.answer_to(arguments)
            except RedisError:
                raise
            except BaseException:
                # An answer that comes late would be taken for that to the next command.
                self.close()
                raise

    async def _connect(self) -> "_Connection":
        connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # its own fault
        try:
            await connection.connect()
        except Exception as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        # The client keeps its socket to itself, and has no way to give it away.
        writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
        return _Connection(writer)

    def close(self) -> None:
        if self._connected is not None:
            self._connected.abort()
            self._connected = None


class _Connection(asyncio.Protocol):
    """Writes a command, and reads its answer. Source: redis.io, "Redis serialization protocol" (RESP 2)."""

    def __init__(self, writer: asyncio.StreamWriter):
        self._writer = writer  # Its end would close the socket.
        self._transport = writer.transport
        self._transport.set_protocol(self)
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None

    @property
    def closed(self) -> bool:
        return self._transport.is_closing()

    def answer_to(self, arguments: Sequence[str]) -> "asyncio.Future[bytes]":
        parts = [b"*%d\r\n" % len(arguments)]
        for argument in arguments:
            encoded = argument.encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(encoded), encoded))
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"".join(parts))
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n")
        kind, body = head[:1], head[1:]
        if kind == b"$" and found and body != b"-1":
            length = int(body)
            found = rest[length : length + 2]
            body = rest[:length]
        if len(found) == 2 and self._answer is not None:
            self._buffer = b""
            self._settle(RedisError(body.decode()) if kind == b"-" else body)

    def _settle(self, outcome: bytes | Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if isinstance(outcome, bytes):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # as asyncio calls it
        self._settle(ConnectionError("The connection was lost"))

    def abort(self) -> None:
        self._transport.abort()
