"""`ai-agent worker`."""

from pathlib import Path

from ai_agent.app import create_worker
from ai_agent.cli.serving import listen, run, url_of
from ai_agent.domain.errors import ConfigurationError
from ai_agent.observability.logging import configure_logging
from ai_agent.settings import LogFormat, Settings, load_settings


def work(concurrency: int | None, host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Works until a signal. Raises ConfigurationError when it cannot start."""
    given = {
        "execution_concurrency": concurrency,
        "worker_host": host,
        "worker_port": port,
        "data_dir": data_dir and data_dir.absolute(),
    }
    settings = load_settings(overrides={name: value for name, value in given.items() if value is not None})
    check_shared(settings, "ai-agent worker")
    configure_logging(level=settings.log_level, json=settings.format is LogFormat.JSON)
    listener = None if settings.worker_port is None else listen(settings.worker_host, settings.worker_port)
    ready = f"Working on {settings.execution_concurrency} runs at a time"
    if listener is not None:
        ready += f"; health and metrics on {url_of(listener)}"
    run(create_worker(settings), settings, listener, ready)


def check_shared(settings: Settings, what: str) -> None:
    """Raises ConfigurationError where a process runs what itself has queued."""
    if not settings.shares_runs:
        hint = "Set AI_AGENT_DATABASE_URL and AI_AGENT_REDIS_URL, or let `ai-agent serve` run what it accepts"
        raise ConfigurationError(f"{what} needs PostgreSQL and Redis, which all processes share", hint)
