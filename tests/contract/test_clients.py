"""Clients generated from the document are made without a warning, and drive a real server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import KEY, Server
from tests.contract import node_tools

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
SMOKE = Path(__file__).parent / "python_smoke.py"
SCRIPTS = Path(sys.executable).parent


def run(*command: str | Path, **environment: str) -> None:
    """Runs a command to its end; fails with what it prints."""
    ran = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "arning" not in ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One is enough: no client can tell which."""
    return f"sqlite:///{tmp_path_factory.mktemp('db')}/test.db"


@pytest.fixture(scope="module")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "client"
    generate: list[str | Path] = [SCRIPTS / "openapi-python-client", "generate", "--path", DOCUMENT]
    # It formats what it made with the ruff that it finds.
    run(*generate, "--output-path", folder, "--fail-on-warning", PATH=f"{SCRIPTS}:{os.environ['PATH']}")
    return folder


@pytest.fixture(scope="module")
def typescript_client() -> Path:
    node_tools.install()
    node_tools.tool("openapi-typescript", DOCUMENT, "--output", "api.d.ts")
    node_tools.tool("tsc")
    return node_tools.FOLDER / "smoke.ts"


def test_a_python_client_is_type_checked_and_drives_the_server(server: Server, python_client: Path) -> None:
    checks = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={python_client}/.mypy_cache"]
    run(sys.executable, "-m", "mypy", *checks, SMOKE, MYPYPATH=str(python_client))
    run(sys.executable, SMOKE, server.url, KEY, PYTHONPATH=str(python_client))


def test_a_typescript_client_is_type_checked_and_drives_the_server(server: Server, typescript_client: Path) -> None:
    ran = node_tools.node(typescript_client, server.url, KEY)
    assert ran.returncode == 0, ran.stdout + ran.stderr
