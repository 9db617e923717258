"""`ai-agent serve`."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import ChangeReload

from ai_agent.app import create_app
from ai_agent.domain.errors import ConfigurationError
from ai_agent.observability.logging import configure_logging
from ai_agent.settings import Auth, LogFormat, Settings, load_settings

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Server(uvicorn.Server):
    """uvicorn, which keeps the reason why the application did not start."""

    announce = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.announce, flush=True)


def serve(host: str, port: int, data_dir: Path | None, *, reload: bool) -> None:
    """Serves until SIGTERM. Raises ConfigurationError when it cannot start."""
    settings = load_settings(overrides={"data_dir": data_dir} if data_dir else {})
    _check_exposure(settings, host)
    settings.directory.mkdir(parents=True, exist_ok=True)
    configure_logging(level=settings.log_level, json=settings.format is LogFormat.JSON)
    listener = _listen(host, port)
    if reload:
        if data_dir:
            os.environ["AI_AGENT_DATA_DIR"] = str(data_dir)
        config = _config("ai_agent.app:from_environment", settings, factory=True, reload=True)
        ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener]).run()
        return
    _run(settings, listener)


def _run(settings: Settings, listener: socket.socket) -> None:
    failure: list[BaseException] = []
    app = create_app(settings)
    server = Server(_config(_reporting(app, failure), settings))
    host, port = listener.getsockname()[:2]
    server.announce = f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}"
    server.run(sockets=[listener])
    if failure:
        if isinstance(failure[0], ConfigurationError):
            raise failure[0]
        raise ConfigurationError(f"The server cannot start: {failure[0]}", "The log above says more") from failure[0]
    if not server.started:
        sys.exit(1)


def _config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="on",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=int(settings.drain_window_seconds) + 1,
        **more,
    )


def _reporting(app: Any, failure: list[BaseException]) -> Any:
    """The application, with what its start raised kept: uvicorn would only log it."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        await _lifespan(app, receive, send, failure)

    return wrapped


async def _lifespan(app: Any, receive: Any, send: Any, failure: list[BaseException]) -> None:
    await receive()
    context = app.lifespan()
    try:
        await context.__aenter__()
    except Exception as error:
        failure.append(error)
        await send({"type": "lifespan.startup.failed"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await context.__aexit__(None, None, None)
    await send({"type": "lifespan.shutdown.complete"})


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        hint = "Choose another with --port, or stop what listens there"
        raise ConfigurationError(f"Cannot listen on {host}:{port}: {error.strerror or error}", hint) from error
    return listener


def _check_exposure(settings: Settings, host: str) -> None:
    if settings.auth is not Auth.DISABLED:
        return
    if host not in LOOPBACK:
        hint = "Remove AI_AGENT_AUTH, or listen on 127.0.0.1"
        raise ConfigurationError(f"AI_AGENT_AUTH=disabled is allowed on loopback only, not on {host}", hint)
    print("WARNING: authentication is off: everybody on this machine is admin", file=sys.stderr, flush=True)
