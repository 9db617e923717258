"""A command in a terminal: what a person types goes in, what the screen would show comes out."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


class Terminal:
    def __init__(self, *arguments: str, environment: dict[str, str], folder: Path):
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ai_agent", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm", "COLUMNS": "200", "PYTHON_BASIC_REPL": "1"},
            cwd=folder,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self.screen = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        os.close(self._master)

    def expect(self, text: str, seconds: float = 20) -> str:
        """Waits for a text behind what was expected before, and answers all that came up to it."""
        deadline = time.monotonic() + seconds
        while text not in self.screen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} never came; the screen: {self.screen!r}"
            if select.select([self._master], [], [], left)[0]:
                self.screen += _ESCAPES.sub("", os.read(self._master, 65536).decode(errors="replace"))
        before, _, self.screen = self.screen.partition(text)
        return before + text

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._master, b"\x03")

    def end_of_input(self) -> None:
        """Ctrl-D."""
        os.write(self._master, b"\x04")

    def exit_code(self, seconds: float = 10) -> int:
        return self._process.wait(seconds)


def _take_terminal() -> None:
    os.setsid()
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
