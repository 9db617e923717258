"""`ai-agent` processes without the second that each of them would need to import itself.

One process has imported everything and is forked. The child is a process of its own in all that a test can see: pid,
signals, environment, folder, output, exit code; but not in how much memory it takes. `fresh` is as on a user's machine.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "ai_agent.app",
    "ai_agent.cli.serve",
    "ai_agent.cli.worker",
    # What these import when they need it.
    "advanced_alchemy.alembic.commands",
    "ai_agent.execution.agent_loop",
    "ai_agent.execution.run_state",
    "alembic.autogenerate",
    "limits",
    "litestar.plugins.pydantic",
    "redis.asyncio",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
)
_ASKING = threading.Lock()


class Forked:
    """As `subprocess.Popen`, as far as tests need it."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], folder: Path, log: Path):
        self.args = arguments
        log.touch()
        self.returncode: int | None = None
        self.pid = int(
            _ask(arguments=arguments, environment=dict(environment), folder=str(folder), log=str(log), do="start")
        )

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(do="poll", pid=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fresh(arguments: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    """As on a user's machine: a new Python that imports everything."""
    with log.open("wb") as output:
        command = [sys.executable, "-m", "ai_agent", *arguments]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)


@cache
def _server() -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.forkserver"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _ask(**request: object) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with _ASKING:
        print(json.dumps(request), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())


def _run(request: Any) -> NoReturn:
    """The child."""
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for here, there in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(here, there)
        os.close(log)
        os.close(nothing)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["ai-agent", *request["arguments"]]
        from ai_agent.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "poll":
            answer = _poll(request["pid"])
        elif not (answer := os.fork()):
            _run(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
