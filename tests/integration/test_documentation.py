"""What the documents tell a reader to type does what they say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import KEY, Server
from tests.model_server import ModelServer
from tests.runs import make_agent

DOCS = Path(__file__).parents[2] / "docs"
REST, CLIENTS = DOCS / "rest.md", DOCS / "clients.md"
LOCAL_MODEL = '"provider": "local", "model": "smollm2-135m"'


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The one that a reader begins with; that both answer alike is tested where each thing is."""
    return f"sqlite:///{tmp_path_factory.mktemp('db')}/test.db"


def test_the_ten_minutes_of_the_rest_document_run_as_they_are_written(server: Server) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", REST.read_text(), re.DOTALL)
    assert len(blocks) == 1
    assert LOCAL_MODEL in blocks[0]
    script = (
        blocks[0]
        .replace("http://127.0.0.1:8000", server.url)
        .replace(LOCAL_MODEL, '"provider": "openai", "model": "m"')
    )
    command = ["bash", "-euo", "pipefail", "-c", script]
    environment = server.environment | {"KEY": KEY}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert '"error":true' not in run.stdout, run.stdout
    for shown in ('etag: "2"', "304 Not Modified", '"stars"', "<mark>cherries</mark>", "By train", "execution_time_ms"):
        assert shown in run.stdout
    assert run.stdout.count('{"type":"message"') == 3


def test_the_example_of_the_python_client_prints_an_answer(server: Server) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", CLIENTS.read_text(), re.DOTALL)
    with server.client() as api:
        make_agent(api)
    environment = server.environment | {"AI_AGENT_URL": server.url, "AI_AGENT_API_KEY": KEY}
    command = [sys.executable, "-c", example]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=server.folder)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "You said: Good morning"


def test_the_first_mcp_server_is_connected_as_it_is_written(model: ModelServer, tmp_path: Path) -> None:
    commands = tmp_path / "commands.json"
    clock = {"command": str(Path(sys.executable).parent / "mcp-server-time"), "arguments": ["--local-timezone", "UTC"]}
    commands.write_text(json.dumps({"time": clock}))
    server = Server(f"sqlite:///{tmp_path}/test.db", tmp_path, AI_AGENT_MCP_STDIO_COMMANDS=str(commands))
    try:
        (block,) = re.findall(r"```bash\n(.*?)```", (DOCS / "mcp.md").read_text(), re.DOTALL)
        with server.client() as api:
            environment = server.environment | {"KEY": KEY, "AGENT": make_agent(api)}
        script = block.replace("http://127.0.0.1:8000", server.url)
        command = ["bash", "-euo", "pipefail", "-c", script]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stderr) == (0, "")
        assert '"error":true' not in run.stdout, run.stdout
        assert '"ok":true' in run.stdout
        assert '"added":["get_current_time","convert_time"]' in run.stdout
        assert run.stdout.endswith("}")
        assert '"requires_approval":true' in run.stdout
    finally:
        server.stop()


def test_what_holds_a_promise_is_there() -> None:
    """Documents name the tests of what they promise."""
    named = {
        name for document in DOCS.glob("*.md") for name in re.findall(r"`(tests/[\w/]+\.py)`", document.read_text())
    }
    assert len(named) > 20
    assert [name for name in sorted(named) if not (DOCS.parent / name).exists()] == []
