"""Several processes on one socket: uvicorn's supervisor, which starts one that died again."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import tempfile
import threading
import time
from typing import Any

import structlog
import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.supervisors import Multiprocess, multiprocess

from ai_agent.cli.serving import run
from ai_agent.domain.errors import ConfigurationError
from ai_agent.observability.logging import configure_logging
from ai_agent.observability.metrics import DIRECTORY, live_pids
from ai_agent.settings import LogFormat, load_settings

BACKLOG = 2048
SILENT_SECONDS = 30
"""A process that answers nothing for so long is killed. On a busy machine a start takes some of it."""

log = structlog.get_logger()


def supervise(config: uvicorn.Config, listener: socket.socket, ready: str) -> int:
    """Serves in `config.workers` processes, each with what `config.app` makes of the settings, until a signal.

    Tells the exit code. Raises ConfigurationError where nothing temporary can be written.
    """
    config.timeout_worker_healthcheck = SILENT_SECONDS
    try:
        with tempfile.TemporaryDirectory(prefix="ai-agent-metrics-", ignore_cleanup_errors=True) as directory:
            os.environ[DIRECTORY] = directory
            listener.listen(BACKLOG)
            print(f"{ready}, in {config.workers} processes", flush=True)
            return _Supervisor(config, listener, directory).supervise()
    except FileNotFoundError as error:
        hint = "Processes tell each other there what they count: give them a writable /tmp, or set TMPDIR"
        raise ConfigurationError(f"There is no directory for temporary files: {error}", hint) from error


class _Process(multiprocess.Process):
    """One that serves as `ai-agent serve` does by itself."""

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        from ai_agent.cli import fail

        assert sockets is not None  # noqa: S101  # the supervisor gives what it was given
        settings = load_settings()
        configure_logging(level=settings.log_level, json=settings.format is LogFormat.JSON)
        threading.Thread(target=self.always_pong, daemon=True).start()
        threading.Thread(target=_stop_with_the_parent, daemon=True).start()
        try:
            make: Any = self.config.app
            run(make(settings), settings, sockets[0], "")
        except ConfigurationError as error:
            fail(error.message, error.hint)

    def is_alive(self, timeout: float = SILENT_SECONDS) -> bool:
        """Whether it answers in time. One that dies meanwhile is not waited for, as the library's would be."""
        try:
            self.parent_conn.send(b"ping")
            multiprocessing.connection.wait([self.parent_conn, self.process.sentinel], timeout)
            answered = self.parent_conn.poll() and self.parent_conn.recv() is not None
        except (OSError, EOFError):
            return False
        return answered and self.process.is_alive()


def _stop_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  # the supervisor
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class _Supervisor(Multiprocess):
    def __init__(self, config: uvicorn.Config, listener: socket.socket, directory: str):
        super().__init__(config, [listener])
        self._directory = directory

    def supervise(self) -> int:
        multiprocess.Process = _Process  # type: ignore[misc]  # The supervisor has no other place to name it.
        self.run()
        # One that the signal meets before it listens to it, as it starts, has nothing to finish.
        return int(any(process.exitcode not in (0, -signal.SIGTERM) for process in self.processes))

    def keep_subprocess_alive(self) -> None:
        before = list(self.processes)
        super().keep_subprocess_alive()
        for process in before:
            if process not in self.processes:
                log.error("process_died", pid=process.pid, exit_code=process.exitcode)
        for pid in live_pids(self._directory) - {process.pid for process in self.processes}:
            mark_process_dead(pid, self._directory)  # type: ignore[no-untyped-call]  # the library leaves it untyped

    def terminate_all(self) -> None:
        for each in self.sockets:
            each.close()  # Else clients would be let in, and nobody would be there.
        super().terminate_all()

    def join_all(self) -> None:
        """A signal that comes again ends them at once."""
        while any(process.process.is_alive() for process in self.processes):
            if {signal.SIGINT, signal.SIGTERM} & set(self.signal_queue):
                self.signal_queue.clear()
                for process in self.processes:
                    process.kill()  # A second SIGTERM may be lost on one that has not heard of the first.
            time.sleep(0.05)
        super().join_all()
