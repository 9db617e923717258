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
ATTACK = os.environ.get("SCHEMATHESIS_ATTACK")
"""The options of a long attack, another one each time: `just attack`."""
SHORT = {"postgresql": "examples,coverage", "sqlite": "fuzzing,stateful"}
"""What each database gets of a short one, which is the same each time: what is at the edges of the schema meets the
stricter types, and what nobody thinks of the parser of the search."""


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
def test_schemathesis_finds_nothing(attacked: Server, database_url: str) -> None:
    phases, options = SHORT[database_url.partition(":")[0]], "--max-examples=10 --seed=1"
    if ATTACK is not None:
        phases, options = ",".join(SHORT.values()), ATTACK
    command = [
        *(sys.executable, "-m", "schemathesis.cli", f"--config-file={HERE}/schemathesis.toml"),
        *("run", f"{attacked.url}/openapi.json", f"--header=Authorization: Bearer {KEY}", "--no-color"),
        *(f"--phases={phases}", "--continue-on-failure", *options.split()),
        "--request-timeout=20",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=attacked.folder)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
    assert "request_crashed" not in attacked.log.read_text()
