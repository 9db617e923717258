"""The TypeScript client: built, held against the transcript of the protocol, and let loose on a real server."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import KEY, Server
from tests.contract import node_tools
from tests.model_server import ModelServer, Reply
from tests.runs import make_agent

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
STRICT = {"strict": True, "noEmit": True, "module": "nodenext", "target": "es2023", "types": []}
SLOWLY = Reply("".join(f"word{number} " for number in range(24)), delay=0.05)


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One is enough: no client can tell which."""
    return f"sqlite:///{tmp_path_factory.mktemp('db')}/test.db"


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    node_tools.install()
    node_tools.tool("tsc", "--project", CLIENT)


def passes(ran: "subprocess.CompletedProcess[str]") -> None:
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_its_types_are_those_of_the_document() -> None:
    passes(node_tools.node(CLIENT / "scripts" / "types.mjs", "--check"))


def test_it_does_what_the_transcript_says() -> None:
    passes(node_tools.node("--test", CLIENT / "test" / "transcript.test.mjs"))


def test_streams_are_read_however_they_are_cut_up() -> None:
    passes(node_tools.node("--test", CLIENT / "test" / "event_stream.test.mjs", CLIENT / "test" / "sse.test.mjs"))


def test_it_loses_and_doubles_nothing_when_connections_are_cut(server: Server, model: ModelServer) -> None:
    model.script(*[SLOWLY] * 10)
    test = CLIENT / "test" / "live.test.mjs"
    # A test that fails leaves its connections open, and nobody would be told.
    passes(node_tools.node("--test", "--test-force-exit", test, AI_AGENT_URL=server.url, AI_AGENT_API_KEY=KEY))


def test_the_example_of_its_readme_is_type_checked_and_runs(server: Server, model: ModelServer, tmp_path: Path) -> None:
    model._script.clear()
    with server.client() as api:
        agent = make_agent(api)
    (example,) = re.findall(r"```ts\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)
    for shown, real in {"http://127.0.0.1:8000": server.url, "sk-…": KEY, "0193…": agent}.items():
        assert shown in example
        example = example.replace(shown, real)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "ai-agent-client").symlink_to(CLIENT)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "example.ts").write_text(example)
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": STRICT, "files": ["example.ts"]}))
    node_tools.tool("tsc", "--project", tmp_path)
    ran = node_tools.node(tmp_path / "example.ts")
    passes(ran)
    assert "You said: Hello" in "".join(ran.stdout.splitlines())
