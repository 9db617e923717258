"""`ai-agent worker`."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from ai_agent.app import WorkerProcess
from ai_agent.domain.errors import ConfigurationError
from ai_agent.observability.logging import configure_logging
from ai_agent.settings import LogFormat, Settings, load_settings


def work(concurrency: int | None, data_dir: Path | None) -> None:
    """Works until a signal. Raises ConfigurationError when it cannot start."""
    given = {"execution_concurrency": concurrency, "data_dir": data_dir and data_dir.absolute()}
    settings = load_settings(overrides={name: value for name, value in given.items() if value is not None})
    check_shared(settings, "ai-agent worker")
    configure_logging(level=settings.log_level, json=settings.format is LogFormat.JSON)
    loop = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_work(settings))


def check_shared(settings: Settings, what: str) -> None:
    """Raises ConfigurationError where a process runs what itself has queued."""
    if not settings.shares_runs:
        hint = "Set AI_AGENT_DATABASE_URL and AI_AGENT_REDIS_URL, or let `ai-agent serve` run what it accepts"
        raise ConfigurationError(f"{what} needs PostgreSQL and Redis, which all processes share", hint)


async def _work(settings: Settings) -> None:
    worker, stopped = WorkerProcess(settings), asyncio.Event()

    def stop() -> None:
        worker.drain()
        stopped.set()

    _on_signal(partial(asyncio.get_running_loop().call_soon_threadsafe, stop))
    async with worker.running():
        gc.collect()  # As in `serve`.
        gc.freeze()
        print(f"Working on {settings.execution_concurrency} runs at a time", flush=True)
        await stopped.wait()


def _on_signal(stop: Callable[[], object]) -> None:
    """The first signal lets runs end, a second one does not wait."""
    asked = False

    def hear(_: int, __: FrameType | None) -> None:
        nonlocal asked
        if asked:
            sys.stdout.flush()
            os._exit(1)
        asked = True
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)
