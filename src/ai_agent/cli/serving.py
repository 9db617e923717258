"""uvicorn, as `serve` and `worker` use it."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from litestar import Litestar

from ai_agent.cli.protocols import HttpProtocol, SocketProtocol
from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.frames import FRAME_BYTES
from ai_agent.settings import Settings


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, and for which stopping on a signal is a success.

    `grace` says how many seconds requests have that are under way then.
    """

    ready = ""
    grace: Callable[[], float]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready:
            print(self.ready, flush=True)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn would give the signals back before the lifespan has ended."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.timeout_graceful_shutdown = max(int(self.grace()), 0) + 1
        super().handle_exit(sig, frame)


def run(app: Litestar, settings: Settings, listener: socket.socket | None, ready: str) -> None:
    """Runs what the application's lifespan opens, and serves it where a socket is given, until a signal.

    Prints `ready` when it is. Raises ConfigurationError when it cannot start.
    """
    server = Server(config(app, settings, lifespan="off"))
    server.grace = app.state.grace
    server.ready = ready
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        try:
            runner.run(_run(app, server, listener))
        except BaseExceptionGroup as group:  # Litestar enters a lifespan inside task groups.
            raise _innermost(group) from group


async def _run(app: Litestar, server: Server, listener: socket.socket | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # Which the lifespan hands on when sockets and streams have gone.
        signal.signal(number, server.handle_exit)
    # Entered here and not by uvicorn, which would only log why a start failed.
    async with app.lifespan():
        # What a start makes lives as long as the process. Out of the collector's sight it costs no request a pause of
        # 50 ms, and all of them a tenth less CPU.
        gc.collect()
        gc.freeze()
        await server.serve(sockets=[] if listener is None else [listener])


def _innermost(error: BaseException) -> BaseException:
    return _innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws=SocketProtocol,
        ws_max_size=FRAME_BYTES,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=int(settings.drain_window_seconds) + 1,
        **more,
    )


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        hint = "Choose another --port or --host, or stop what listens there"
        raise ConfigurationError(f"Cannot listen on {host}:{port}: {error.strerror or error}", hint) from error
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
