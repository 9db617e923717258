"""The commands as a user meets them: what they print, and how they fail."""

import asyncio
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ai_agent.cli import main
from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.fields import now
from ai_agent.security.api_keys import generate, well_formed
from ai_agent.settings import load_settings
from ai_agent.storage.migrations import HEAD
from tests.conftest import SECRET, FreshServer, Server
from tests.model_server import ModelServer
from tests.servers import ValkeyServer, free_port
from tests.sql import execute


def ai_agent(folder: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """The command in an empty environment of its own."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("AI_AGENT_", "OPENAI_", "ANTHROPIC_"))
    }
    environment = {**clean, "AI_AGENT_DATA_DIR": str(folder / "data"), "COLUMNS": "200", **settings}
    command = [sys.executable, "-m", "ai_agent", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, timeout=60, check=False)


examination = importlib.import_module("ai_agent.cli.doctor")  # Under that name the package has the command itself.

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The same inside the test's own process, for tests of many commands: most of a command's time is its start."""
    for name in [name for name in os.environ if name.startswith(("AI_AGENT_", "OPENAI_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AI_AGENT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(sys, "argv", ["ai-agent", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), printed.out, printed.err)

    return run


def assert_one_line_and_a_hint(run: "subprocess.CompletedProcess[str]", *words: str, code: int = 1) -> None:
    assert run.returncode == code
    lines = run.stderr.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"], run.stderr
    assert all(word in run.stderr for word in words), run.stderr


def test_a_wrong_setting_names_itself(tmp_path: Path) -> None:
    assert_one_line_and_a_hint(ai_agent(tmp_path, "serve", AI_AGENT_DB_POOL_SIZE="many"), "AI_AGENT_DB_POOL_SIZE")


def test_a_short_secret_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    run = ai_agent(tmp_path, "serve", AI_AGENT_SECRET_KEY="hunter2")
    assert_one_line_and_a_hint(run, "AI_AGENT_SECRET_KEY", "32")
    assert "hunter2" not in run.stderr


def test_production_asks_for_a_secret_key(tmp_path: Path) -> None:
    assert_one_line_and_a_hint(ai_agent(tmp_path, "serve", AI_AGENT_ENVIRONMENT="production"), "AI_AGENT_SECRET_KEY")


def test_an_unreachable_database_is_named(tmp_path: Path) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    for command in (["serve"], ["db", "upgrade"], ["keys", "list"]):
        run = ai_agent(tmp_path, *command, AI_AGENT_DATABASE_URL=url)
        assert_one_line_and_a_hint(run, "database", "AI_AGENT_DATABASE_URL")


def test_a_database_that_is_not_there_is_named(tmp_path: Path, postgres_url: str) -> None:
    run = ai_agent(tmp_path, "serve", AI_AGENT_DATABASE_URL=postgres_url.rpartition("/")[0] + "/absent")
    assert_one_line_and_a_hint(run, '"absent"', "AI_AGENT_DATABASE_URL")


@pytest.mark.parametrize(
    "url", ["mysql://localhost/x", "nonsense", "sqlite://", "sqlite:///:memory:", "postgresql://u:p@host:abc/db"]
)
def test_an_address_that_nobody_understands_is_refused(tmp_path: Path, url: str) -> None:
    assert_one_line_and_a_hint(ai_agent(tmp_path, "serve", AI_AGENT_DATABASE_URL=url), "AI_AGENT_DATABASE_URL")


def test_a_database_that_is_not_there_cannot_be_migrated(tmp_path: Path, postgres_url: str) -> None:
    run = ai_agent(tmp_path, "db", "upgrade", AI_AGENT_DATABASE_URL=postgres_url.rpartition("/")[0] + "/absent")
    assert_one_line_and_a_hint(run, '"absent"', "AI_AGENT_DATABASE_URL")


def test_an_address_with_options_is_migrated(tmp_path: Path, empty_postgres: str) -> None:
    run = ai_agent(tmp_path, "db", "upgrade", AI_AGENT_DATABASE_URL=f"{empty_postgres}?sslmode=disable")
    assert (run.returncode, run.stdout.strip()) == (0, HEAD)


def test_a_data_directory_may_have_any_name(tmp_path: Path) -> None:
    odd = tmp_path / "we?ird #name%20"
    assert ai_agent(tmp_path, "db", "upgrade", AI_AGENT_DATA_DIR=str(odd)).returncode == 0
    assert (odd / "ai-agent.db").exists()


@pytest.mark.parametrize("option", ["--name", "--owner"])
@pytest.mark.parametrize("text", ["", "x" * 256, "two\nlines"])
def test_a_key_has_labels_that_can_be_read(tmp_path: Path, option: str, text: str) -> None:
    run = ai_agent(tmp_path, "keys", "create", option, text)
    assert run.returncode == 1
    assert run.stderr.startswith("Error: ")
    assert option[2:] in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_key_that_would_never_be_good_is_refused(tmp_path: Path) -> None:
    run = ai_agent(tmp_path, "keys", "create", "--expires", "2020-01-01")
    assert (run.returncode, run.stderr.strip()) == (1, "Error: expires_at: Must be in the future")


def test_keys_are_listed_with_how_they_are_and_when_they_were_used(tmp_path: Path, command: Command) -> None:
    names = ("expired", "revoked", "rotated", "valid")
    for name in names:
        command("keys", "create", "--name", f"is {name}")
    listed = json.loads(command("keys", "list", "--json").stdout)
    ids = {key["name"].removeprefix("is "): key["id"] for key in listed}
    url = f"sqlite:///{tmp_path}/data/ai-agent.db"
    execute(url, f"UPDATE api_keys SET expires_at = '2026-01-01T00:00:00.000000Z' WHERE id = '{ids['expired']}'")
    execute(url, f"UPDATE api_keys SET last_used_at = '2026-02-03T04:05:06.000000Z' WHERE id = '{ids['valid']}'")
    command("keys", "revoke", ids["revoked"])
    command("keys", "rotate", ids["rotated"])
    lines = [line for line in command("keys", "list").stdout.splitlines() if line.split()[0] in ids.values()]
    assert [line.split()[1] for line in lines] == list(names)
    assert ["used 2026-02-03 04:05Z" in line for line in lines] == [False, False, False, True]
    assert ["never used" in line for line in lines] == [True, True, True, False]


def test_a_rotated_key_is_printed_once_and_what_cannot_be_rotated_says_why(command: Command) -> None:
    made = json.loads(command("keys", "create", "--json").stdout)
    new = json.loads(command("keys", "rotate", made["id"], "--overlap", "0", "--json").stdout)
    assert well_formed(new["key"])
    assert new["key"] != made["key"]
    again = command("keys", "rotate", new["id"])
    assert well_formed(again.stdout.splitlines()[0])
    assert_one_line_and_a_hint(command("keys", "rotate", made["id"]), f"keys rotate {new['id']}")
    assert_one_line_and_a_hint(command("keys", "rotate", str(uuid.uuid4())), "no key", "keys list")
    newest = again.stdout.split()[2].rstrip(";")
    assert command("keys", "revoke", newest).stdout == f"Revoked {newest}\n"
    repeated = command("keys", "revoke", newest)
    assert (repeated.returncode, repeated.stdout) == (0, f"{newest} was revoked already\n")
    assert_one_line_and_a_hint(command("keys", "rotate", newest), newest, "revoked", "keys create")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear reader, this is no database at all. " * 20)
    run = ai_agent(tmp_path, "serve", AI_AGENT_DATABASE_URL=f"sqlite:///{tmp_path}/letter.db")
    assert_one_line_and_a_hint(run, "letter.db")


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert_one_line_and_a_hint(ai_agent(tmp_path, "serve"), "AI_AGENT_DATA_DIR")


def test_an_old_schema_of_postgresql_names_the_command(tmp_path: Path, empty_postgres: str) -> None:
    run = ai_agent(tmp_path, "serve", AI_AGENT_DATABASE_URL=empty_postgres)
    assert_one_line_and_a_hint(run, "ai-agent db upgrade")


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_one_line_and_a_hint(ai_agent(tmp_path, "serve", "--port", port), port, "--port")


def test_a_malformed_bootstrap_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    key = generate("test")[:-1] + "?"
    run = ai_agent(tmp_path, "serve", "--port", "0", AI_AGENT_BOOTSTRAP_API_KEY=key)
    assert_one_line_and_a_hint(run, "AI_AGENT_BOOTSTRAP_API_KEY", "ai-agent keys generate")
    assert key not in run.stderr


def test_authentication_is_switched_off_on_loopback_only(tmp_path: Path) -> None:
    run = ai_agent(tmp_path, "serve", "--host", "0.0.0.0", AI_AGENT_AUTH="disabled")
    assert_one_line_and_a_hint(run, "AI_AGENT_AUTH", "0.0.0.0")


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--prot", "1"],
        ["serve", "--port", "x"],
        ["nothing"],
        ["keys", "revoke", "x"],
        ["keys", "rotate", str(uuid.uuid4()), "--overlap", "604801"],
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_help(tmp_path: Path, arguments: list[str]) -> None:
    run = ai_agent(tmp_path, *arguments)
    assert_one_line_and_a_hint(run, "ai-agent", "--help", code=2)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["worker"],
        ["chat"],
        ["doctor"],
        ["db"],
        ["db", "upgrade"],
        ["keys"],
        ["keys", "create"],
        ["keys", "rotate"],
    ],
)
def test_help_is_everywhere(tmp_path: Path, command: list[str]) -> None:
    run = ai_agent(tmp_path, *command, "--help")
    assert run.returncode == 0
    assert "Usage: ai-agent" in run.stdout


def test_a_generated_key_is_well_formed_and_stored_nowhere(tmp_path: Path) -> None:
    run = ai_agent(tmp_path, "keys", "generate")
    assert well_formed(run.stdout.strip())
    assert not list(tmp_path.rglob("*.db"))


def test_the_schema_goes_up_and_down_and_says_where_it_is(tmp_path: Path) -> None:
    assert ai_agent(tmp_path, "db", "current").stdout.strip() == "no schema"
    assert ai_agent(tmp_path, "db", "upgrade").stdout.strip() == HEAD
    assert ai_agent(tmp_path, "db", "check").returncode == 0
    assert ai_agent(tmp_path, "db", "downgrade", "base").stdout.strip() == "no schema"
    assert_one_line_and_a_hint(ai_agent(tmp_path, "db", "check"), "ai-agent db upgrade")
    assert_one_line_and_a_hint(ai_agent(tmp_path, "db", "upgrade", "nonsense"), "nonsense")


def test_doctor_finds_all_well(tmp_path: Path) -> None:
    with ModelServer() as model:
        run = ai_agent(tmp_path, "doctor", OPENAI_BASE_URL=f"{model.url}/v1")
    assert run.returncode == 0, run.stdout
    assert [line.split()[0] for line in run.stdout.splitlines()] == ["ok"] * 9


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path, empty_postgres: str) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    settings = {"AI_AGENT_DATABASE_URL": empty_postgres, "OPENAI_BASE_URL": nowhere, "AI_AGENT_DATABSE_URL": "typo"}
    run = ai_agent(tmp_path, "doctor", **settings)
    assert run.returncode == 1
    for words in ("AI_AGENT_DATABSE_URL", "ai-agent db upgrade", nowhere):
        assert words in run.stdout


def test_doctor_looks_whether_redis_keeps_what_it_is_told(tmp_path: Path) -> None:
    valkey = ValkeyServer()
    try:
        well = ai_agent(tmp_path, "doctor", AI_AGENT_REDIS_URL=valkey.url).stdout
        assert "redis: keeps what it is told" in well
        valkey.ask("CONFIG SET appendfsync no")
        assert "Set appendfsync everysec" in ai_agent(tmp_path, "doctor", AI_AGENT_REDIS_URL=valkey.url).stdout
        valkey.ask("ACL SETUSER default -info")
        assert "Redis cannot be asked" in ai_agent(tmp_path, "doctor", AI_AGENT_REDIS_URL=valkey.url).stdout
        valkey.ask("ACL SETUSER default +info")
        valkey.ask("CONFIG SET appendonly no")
        assert "Set appendonly yes" in ai_agent(tmp_path, "doctor", AI_AGENT_REDIS_URL=valkey.url).stdout
        valkey.ask("CONFIG SET maxmemory-policy allkeys-lru")
        assert "Set maxmemory-policy noeviction" in ai_agent(tmp_path, "doctor", AI_AGENT_REDIS_URL=valkey.url).stdout
    finally:
        valkey.stop()
    away = ai_agent(tmp_path, "doctor", AI_AGENT_REDIS_URL=valkey.url)
    assert (away.returncode, "Check AI_AGENT_REDIS_URL" in away.stdout) == (1, True)


def test_doctor_compares_clocks(postgres_url: str, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"AI_AGENT_DATABASE_URL": postgres_url, "AI_AGENT_REDIS_URL": valkey.url})
    assert asyncio.run(examination._clock(settings)) == "agrees with the database and Redis"
    for shift, way in ((-60, "behind"), (60, "ahead of")):
        monkeypatch.setattr(examination, "now", lambda shift=shift: now() + timedelta(seconds=shift))
        with pytest.raises(ConfigurationError, match=f"60 s {way} that of the database"):
            asyncio.run(examination._clock(settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AI_AGENT_WS_MAX_CONNECTIONS": "100000000"}, "too few for 100000000 sockets"),
        ({"AI_AGENT_RATE_LIMIT_ENABLED": "false"}, "Remove AI_AGENT_RATE_LIMIT_ENABLED"),
        ({"AI_AGENT_RATE_LIMIT_READ": "often"}, "AI_AGENT_RATE_LIMIT_READ"),
        ({"AI_AGENT_DB_POOL_SIZE": "1000"}, "each process takes up to 1000"),
    ],
)
def test_doctor_looks_at_limits(
    command: Command, monkeypatch: pytest.MonkeyPatch, postgres_url: str, settings: dict[str, str], words: str
) -> None:
    for name, value in ({"AI_AGENT_DATABASE_URL": postgres_url} | settings).items():
        monkeypatch.setenv(name, value)
    run = command("doctor")
    assert (run.returncode, words in run.stdout) == (1, True), run.stdout


def test_doctor_names_the_queue(command: Command, monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> None:
    assert "queue: in memory" in command("doctor").stdout
    monkeypatch.setenv("AI_AGENT_REDIS_URL", "redis://127.0.0.1/0")
    assert "queue: in memory" in command("doctor").stdout
    monkeypatch.setenv("AI_AGENT_DATABASE_URL", postgres_url)
    assert "queue: Redis" in command("doctor").stdout


@pytest.mark.parametrize("command_line", ["worker", "serve --no-worker"])
@pytest.mark.parametrize("missing", ["AI_AGENT_REDIS_URL", "AI_AGENT_DATABASE_URL"])
def test_a_worker_apart_needs_a_database_and_a_redis_that_are_shared(
    command: Command, monkeypatch: pytest.MonkeyPatch, command_line: str, missing: str
) -> None:
    monkeypatch.setenv("AI_AGENT_REDIS_URL", "redis://127.0.0.1/0")
    monkeypatch.setenv("AI_AGENT_DATABASE_URL", "postgresql://127.0.0.1/x")
    monkeypatch.delenv(missing)
    assert_one_line_and_a_hint(command(*command_line.split()), "PostgreSQL and Redis", missing)


def test_a_worker_names_a_database_that_is_away_or_old(tmp_path: Path, empty_postgres: str) -> None:
    settings = {"AI_AGENT_REDIS_URL": "redis://127.0.0.1/0", "AI_AGENT_DATABASE_URL": empty_postgres}
    assert_one_line_and_a_hint(ai_agent(tmp_path, "worker", **settings), "ai-agent db upgrade")
    settings["AI_AGENT_DATABASE_URL"] = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    assert_one_line_and_a_hint(ai_agent(tmp_path, "worker", **settings), "AI_AGENT_DATABASE_URL")


def test_doctor_tells_a_refused_key_from_an_absent_server(tmp_path: Path) -> None:
    with ModelServer() as model:
        model.key = "right"
        settings = {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "sk-ant-wrong"}
        run = ai_agent(tmp_path, "doctor", **settings)
    assert run.returncode == 1
    assert "refuses the key (401)" in run.stdout
    assert "sk-ant-wrong" not in run.stdout + run.stderr


def test_chat_without_a_server_says_how_to_start_one(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    run = ai_agent(tmp_path, "chat", AI_AGENT_URL=url, AI_AGENT_API_KEY="x")
    assert_one_line_and_a_hint(run, url, "ai-agent serve")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Server]:
    server = FreshServer(f"sqlite:///{tmp_path}/x.db", tmp_path)
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_success(started: Server, how: int) -> None:
    with started.client() as api:
        api.post("/sessions", json={})
    assert started.stop(how) == 0
    assert "Traceback" not in started.log.read_text()


def test_chat_names_an_agent_that_is_not_there(started: Server) -> None:
    started.environment |= {
        "AI_AGENT_URL": started.url,
        "AI_AGENT_API_KEY": started.environment["AI_AGENT_BOOTSTRAP_API_KEY"],
    }
    run = started.command("chat", "nobody")
    assert_one_line_and_a_hint(run, "nobody")


def test_every_line_of_the_log_is_json_and_names_its_request(started: Server) -> None:
    with started.client() as api:
        api.get("/sessions?limit=1", headers={"X-Correlation-ID": "find-me"})
    access: dict[str, Any] | None = None
    deadline = time.monotonic() + 5
    while access is None and time.monotonic() < deadline:  # Written when the answer is on its way already.
        lines = [json.loads(line) for line in started.log.read_text().splitlines() if line.startswith("{")]
        access = next((line for line in lines if line.get("correlation_id") == "find-me"), None)
    assert access is not None
    assert (access["method"], access["route"], access["status"], access["principal"]) == (
        "GET",
        "/api/v1/sessions",
        200,
        "admin",
    )
    assert access["bytes"] > 0
    assert access["duration_ms"] > 0


def test_a_server_that_stays_small(started: Server) -> None:
    import psutil

    started.stop()
    started.start()  # The first start migrates: that takes 16 MiB more.
    with started.client() as api:
        for _ in range(50):
            api.get("/sessions")
    assert psutil.Process(started.process.pid).memory_info().rss < 135 * 2**20


def test_api_keys_of_an_older_secret_key_are_known_and_a_revoked_one_stays_so(started: Server) -> None:
    made = json.loads(started.command("keys", "create", "--json", check=True).stdout)
    listed = json.loads(started.command("keys", "list", "--json", check=True).stdout)
    started.command("keys", "revoke", next(key["id"] for key in listed if key["name"] == "bootstrap"), check=True)
    started.stop()
    started.environment |= {"AI_AGENT_SECRET_KEY": SECRET[::-1], "AI_AGENT_SECRET_KEY_FALLBACKS": SECRET}
    started.start()
    with started.client(made["key"]) as api, started.client() as revoked:
        assert api.get("/sessions").status_code == 200
        assert revoked.get("/sessions").status_code == 401


def test_rotating_no_secrets_says_so(tmp_path: Path) -> None:
    run = ai_agent(tmp_path, "rotate-secrets")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        "agents: 0 rows with secrets, 0 re-encrypted",
        "agent_versions: 0 rows with secrets, 0 re-encrypted",
        "tools: 0 rows with secrets, 0 re-encrypted",
        "mcp_servers: 0 rows with secrets, 0 re-encrypted",
    ]


@pytest.mark.parametrize(("name", "value"), [("OUTBOUND_ALLOW", "10.0.0.0/33"), ("SECRET_KEY_FALLBACKS", "hunter2")])
def test_a_wrong_list_names_its_setting(tmp_path: Path, name: str, value: str) -> None:
    run = ai_agent(tmp_path, "serve", **{f"AI_AGENT_{name}": value})
    assert_one_line_and_a_hint(run, f"AI_AGENT_{name}")
    assert "hunter2" not in run.stderr


def test_a_secret_key_of_the_settings_is_used_by_all_processes(tmp_path: Path) -> None:
    made = ai_agent(tmp_path, "keys", "create", "--json", AI_AGENT_SECRET_KEY=SECRET)
    assert made.returncode == 0
    assert not (tmp_path / "data" / "secret.key").exists()
