"""`ai-agent serve`."""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.supervisors import ChangeReload

from ai_agent.app import create_app
from ai_agent.cli.limits import raise_open_files
from ai_agent.cli.serving import config, listen, run, url_of
from ai_agent.cli.supervisor import supervise
from ai_agent.cli.worker import check_shared
from ai_agent.domain.errors import ConfigurationError
from ai_agent.observability.logging import configure_logging
from ai_agent.settings import Auth, LogFormat, Settings, load_settings

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def serve(host: str, port: int, data_dir: Path | None, *, workers: int, reload: bool, worker: bool) -> None:
    """Serves until a signal. Raises ConfigurationError when it cannot start."""
    if data_dir is not None:
        os.environ["AI_AGENT_DATA_DIR"] = str(data_dir.absolute())
    settings = load_settings()
    _check_exposure(settings, host)
    if not worker:
        check_shared(settings, "--no-worker")
    if workers > 1:
        check_shared(settings, f"--workers {workers}")
    configure_logging(level=settings.log_level, json=settings.format is LogFormat.JSON)
    raise_open_files()
    listener = listen(host, port)
    ready = f"Listening on {url_of(listener)}"
    if reload:
        reloaded = config("ai_agent.app:from_environment", settings, factory=True, reload=True)
        ChangeReload(reloaded, target=uvicorn.Server(reloaded).run, sockets=[listener]).run()
    elif workers > 1:
        asyncio.run(create_app(settings).state.prepare())
        made = partial(create_app, worker=worker, prepared=True)
        sys.exit(supervise(config(made, settings, factory=True, workers=workers), listener, ready))
    else:
        run(create_app(settings, worker=worker), settings, listener, ready)


def _check_exposure(settings: Settings, host: str) -> None:
    if settings.auth is not Auth.DISABLED:
        return
    if host not in LOOPBACK:
        hint = "Remove AI_AGENT_AUTH, or listen on 127.0.0.1"
        raise ConfigurationError(f"AI_AGENT_AUTH=disabled is allowed on loopback only, not on {host}", hint)
    print("WARNING: authentication is off: everybody on this machine is admin", file=sys.stderr, flush=True)
