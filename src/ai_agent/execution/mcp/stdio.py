"""MCP over the standard streams of a child process, in a group of its own that is killed as a whole.

One task reads and whoever asks waits for it; when the child ends, all who wait hear of it.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.fields import JsonObject
from ai_agent.execution.mcp.commands import StdioCommand
from ai_agent.execution.mcp.failures import McpLost
from ai_agent.execution.mcp.protocol import Hear, answer_to

MAX_BYTES = 8 * 1024 * 1024
"""Of one message."""
LOGGED_BYTES = 64 * 1024
"""Of what a child says on its standard error; the rest is read and forgotten."""
STOP_SECONDS = 1.0
"""How long a child has to end when its input has ended, and as long again after SIGTERM."""
LAST_WORDS_SECONDS = 0.1
"""How long what a child has said is read when it has ended."""

_KEPT = ("PATH", "LANG", "LC_ALL", "TZ")

log = structlog.get_logger()

ENDED = "The server's process has ended"


class _Child(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells of the end of the process itself: a child of its own may hold its pipes for ever."""

    def __init__(self) -> None:
        super().__init__(MAX_BYTES, asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class StdioLink:
    stateless_first = False

    def __init__(self, transport: asyncio.SubprocessTransport, child: _Child, name: str):
        self._transport = transport
        self._pid = transport.get_pid()
        self._exited = child.exited
        self._process = asyncio.subprocess.Process(transport, child, asyncio.get_running_loop())
        self._name = name
        self._waiting: dict[Any, tuple[asyncio.Future[JsonObject], Hear]] = {}
        self._ended: str | None = None
        self._tasks = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._read()),
            asyncio.create_task(self._log_errors()),
        ]

    @classmethod
    async def start(cls, name: str, command: StdioCommand) -> "StdioLink":
        """Raises McpLost."""
        kept = (*_KEPT, *command.environment)
        try:
            transport, child = await asyncio.get_running_loop().subprocess_exec(
                _Child,
                command.command,
                *command.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                # Nothing of the server's secrets, and not the terminal's Ctrl-C either.
                env={name: os.environ[name] for name in kept if name in os.environ},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            log.warning("mcp_command_failed", command=name, error=str(error))
            raise McpLost(f"The command {name} cannot be started", unsent=True) from error
        return cls(transport, child, name)

    async def exchange(self, request: JsonObject, headers: Mapping[str, str], hear: Hear) -> JsonObject:  # noqa: ARG002
        number = request["id"]
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (answer, hear)
        try:
            await self._write(request)
            return await answer
        finally:
            del self._waiting[number]

    async def notify(self, notification: JsonObject, headers: Mapping[str, str]) -> None:  # noqa: ARG002
        await self._write(notification)

    def farewell(self, notification: JsonObject, headers: Mapping[str, str]) -> None:  # noqa: ARG002
        self._send(notification)

    async def _write(self, message: JsonObject) -> None:
        if self._ended is not None:
            raise McpLost(self._ended, unsent=True)
        self._send(message)
        with suppress(ConnectionError):  # The reader tells of it.
            await self._stdin.drain()

    def _send(self, message: JsonObject) -> None:
        if self._ended is None:
            self._stdin.write(msgspec.json.encode(message) + b"\n")

    @property
    def _stdin(self) -> asyncio.StreamWriter:
        assert self._process.stdin is not None  # noqa: S101  # a pipe was asked for
        return self._process.stdin

    async def _watch(self) -> None:
        await self._exited.wait()
        await asyncio.sleep(LAST_WORDS_SECONDS)
        self._end(ENDED)

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101  # a pipe was asked for
        why = ENDED
        try:
            while line := await stdout.readline():
                self._take(line)
        except ValueError:  # Of the reader, for a line beyond its limit.
            why = "The server's answer is too large"
        except ConnectionError:
            pass
        finally:
            self._end(why)

    def _take(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line)
        except (msgspec.MsgspecError, RecursionError):
            message = None
        if not isinstance(message, dict):
            log.info("mcp_said_no_json", command=self._name, bytes=len(line))
        elif "method" not in message:
            answer, _ = self._waiting.get(_hashable(message.get("id")), (None, None))
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif "id" in message:
            self._send(answer_to(message))
        else:
            for _, hear in list(self._waiting.values()):
                hear(message)

    def _end(self, why: str) -> None:
        """Nothing comes any more, and who waits hears why."""
        if self._ended is not None:
            return
        self._ended = why
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_exception(McpLost(why))

    async def _log_errors(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None  # noqa: S101  # a pipe was asked for
        left = LOGGED_BYTES
        while part := await stderr.read(4096):
            if left > 0:
                log.info("mcp_stderr", command=self._name, said=part[:left].decode(errors="replace"))
                left -= len(part)

    async def ended(self) -> None:
        await asyncio.wait(self._tasks[:2], return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Ends the child within two seconds: by the end of its input, by SIGTERM, by SIGKILL to all of its group."""
        try:
            self._stdin.close()
            await self._exit_within(STOP_SECONDS)
            if not self._exited.is_set():
                self._signal(signal.SIGTERM)
                await self._exit_within(STOP_SECONDS)
        finally:
            self._signal(signal.SIGKILL)
            self._end("The connection was closed")
            await cancel_and_wait(*self._tasks)
            await self._exit_within(STOP_SECONDS)
            self._transport.close()

    async def _exit_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)


def _hashable(number: Any) -> Any:
    return number if isinstance(number, int | str) else None
