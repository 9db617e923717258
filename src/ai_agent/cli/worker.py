"""`ai-agent worker`."""

import asyncio
import gc
import signal
from pathlib import Path

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
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopped.set))
    async with WorkerProcess(settings).running():
        gc.collect()  # As in `serve`.
        gc.freeze()
        print(f"Working on {settings.execution_concurrency} runs at a time", flush=True)
        await stopped.wait()
