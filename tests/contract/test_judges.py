"""What others make to judge an API finds nothing: two linters, and schemathesis, which tries to break the server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KEY, Server
from tests.contract import node_tools
from tests.model_server import ModelServer

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "openapi.json"
ATTACK = os.environ.get("SCHEMATHESIS_ATTACK", "--max-examples=10 --seed=1").split()
"""Short and the same each time; `just attack` is long, and another one each time."""


def test_spectral_finds_nothing() -> None:
    node_tools.install()
    node_tools.tool("spectral", "lint", "--ruleset=spectral.yaml", "--fail-severity=hint", DOCUMENT)


def test_redocly_finds_nothing() -> None:
    node_tools.install()
    node_tools.tool("redocly", "lint", "--config=redocly.yaml", DOCUMENT)


@pytest.fixture(scope="module")
def attacked(database_url: str, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose runs end soon: some of them are of the local model, and schemathesis waits for each."""
    server = Server(
        database_url,
        tmp_path_factory.mktemp("attacked"),
        OPENAI_BASE_URL=f"{model.url}/v1",
        ANTHROPIC_BASE_URL=model.url,
        ANTHROPIC_API_KEY="sk-ant-canary",
        AI_AGENT_EXECUTION_TIMEOUT="1",
    )
    yield server
    server.stop()


@pytest.mark.timeout(3600)
def test_schemathesis_finds_nothing(attacked: Server) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", f"--config-file={HERE}/schemathesis.toml"),
        *("run", f"{attacked.url}/openapi.json", f"--header=Authorization: Bearer {KEY}", "--no-color"),
        *("--phases=examples,coverage,fuzzing,stateful", "--continue-on-failure", *ATTACK),
        "--request-timeout=20",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=attacked.folder)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
    assert "request_crashed" not in attacked.log.read_text()
