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


@pytest.fixture(scope="module")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "client"
    command = [SCRIPTS / "openapi-python-client", "generate", "--path", DOCUMENT, "--output-path", folder]
    environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}  # It formats what it made with ruff.
    ran = subprocess.run([*command, "--fail-on-warning"], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "arning" not in ran.stdout + ran.stderr
    return folder


@pytest.fixture(scope="module")
def typescript_client() -> Path:
    node_tools.install()
    node_tools.tool("openapi-typescript", DOCUMENT, "--output", "api.d.ts")
    node_tools.tool("tsc")
    return node_tools.FOLDER / "smoke.ts"


def test_a_python_client_is_type_checked_and_drives_the_server(server: Server, python_client: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(python_client), "MYPYPATH": str(python_client)}
    checked = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", SMOKE]
    for command in ([*checked, f"--cache-dir={python_client}/.mypy_cache"], [sys.executable, SMOKE, server.url, KEY]):
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_typescript_client_is_type_checked_and_drives_the_server(server: Server, typescript_client: Path) -> None:
    ran = node_tools.node(typescript_client, server.url, KEY)
    assert ran.returncode == 0, ran.stdout + ran.stderr
