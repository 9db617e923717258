"""Processes that are measured: started on a core of their own, stopped by their pid."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psutil

from tests.servers import wait_for_port

ROOT = Path(__file__).parents[1]

# None where the platform cannot pin, or has one core only.
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SERVER_CORES = set(_CORES[:1]) if len(_CORES) > 1 else None
OTHER_CORES = set(_CORES[1:]) if len(_CORES) > 1 else None


@contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """What is started in the block runs on these cores only."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """A server under test. Raises RuntimeError with the end of its log when it does not start."""

    def __init__(self, command: list[str], *, port: int, environment: dict[str, str], folder: Path, log: Path):
        self.port = port
        with log.open("wb") as stderr, on_cores(SERVER_CORES):
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            wait_for_port(port, self._process, seconds=60)
        except RuntimeError as error:
            self.stop()
            raise RuntimeError(f"{error}\n{log.read_text()[-2000:]}") from error

    def _tree(self) -> list[psutil.Process]:
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children so far."""
        times = [process.cpu_times() for process in self._tree()]
        return float(sum(one.user + one.system for one in times))

    def rss_mib(self) -> float:
        return float(sum(process.memory_info().rss for process in self._tree())) / 2**20

    def stop(self) -> None:
        with suppress(psutil.NoSuchProcess):
            stop(self._tree())


def stop(processes: list[psutil.Process]) -> None:
    """Asks processes to end, and ends those that do not within ten seconds."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(how)
        processes = psutil.wait_procs(processes, timeout=10)[1]


_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def cleaned_up() -> Iterator[tuple[ExitStack, Path]]:
    """A stack for what is started and a folder for its files. Nothing of it is left, also after Ctrl-C or SIGTERM."""
    for number in _ENDING:
        signal.signal(number, _end)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        # What was interrupted while it started is on no stack yet.
        stack.callback(lambda: stop(psutil.Process().children(recursive=True)))
        yield stack, Path(folder)


def _end(number: int, _: object) -> NoReturn:
    """The first signal ends the block; a second one must not end its cleaning up."""
    for ending in _ENDING:
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(128 + number)
