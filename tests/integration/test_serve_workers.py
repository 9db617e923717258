"""`ai-agent serve --workers`: several processes on one port, which tell of each other."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from ai_agent.cli.serve import serve
from ai_agent.domain.errors import ConfigurationError
from tests.conftest import KEY, SECRET, FreshServer, Server, create_database, prepare
from tests.prometheus import Lines, Told
from tests.servers import ValkeyServer
from tests.sockets import conversing

READS = 'ai_agent_http_requests_total{method="GET",route="/api/v1/sessions",status="200"}'
PROCESSES = 2


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Several(FreshServer):
    """Two processes and their parent."""

    def start(self, port: int | None = None) -> None:
        super().start(port)
        until(lambda: len(self.serving) == PROCESSES)

    @property
    def serving(self) -> set[int]:
        """The processes that have answered something."""
        with httpx.Client(base_url=self.url) as http:
            text = http.get("/metrics", timeout=30).text
        return {int(pid) for pid in re.findall(r'process_start_time_seconds{pid="(\d+)"}', text)}

    @property
    def directories(self) -> list[Path]:
        return list(Path(self.environment["TMPDIR"]).glob("ai-agent-metrics-*"))


@pytest.fixture(scope="module")
def several(postgres_url: str, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    folder = tmp_path_factory.mktemp("several")
    settings = {"AI_AGENT_REDIS_URL": valkey.url, "TMPDIR": str(folder)}
    started = Several(create_database(postgres_url), folder, "--workers", str(PROCESSES), **settings)
    yield started
    if started.process.poll() is None:
        started.stop()


def read(server: Server, times: int) -> None:
    """So many requests, each on a connection of its own, so that all processes get some."""
    for _ in range(times):
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{server.url}/api/v1/sessions", headers=headers, timeout=30).status_code == 200


def test_one_look_tells_of_all_processes(several: Several) -> None:
    told = Told(several.url)
    until(lambda: told.now()["ai_agent_db_pool_size"] == PROCESSES * 10)
    assert told.lines["ai_agent_execution_queue_depth"] == 0
    with ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(conversing(several))
        read(several, 60)

        def grown(by: Lines) -> bool:
            opened = by.get("ai_agent_ws_connections"), by.get("ai_agent_ws_connects_total")
            return by.get(READS) == 60 and opened == (9, 9)

        told.grows(grown)
    told.grows(lambda by: by.get("ai_agent_ws_connections") == -9)


def test_what_is_the_same_for_all_is_told_once(several: Several) -> None:
    with several.client() as api:
        body = {"name": "away", "transport": "streamable_http", "endpoint": "https://mcp.example/mcp"}
        assert api.post("/mcp-servers", json={**body, "enabled": False}).status_code == 201
    for _ in range(12):
        assert Told(several.url).lines['ai_agent_mcp_servers{status="disabled"}'] == 1


def test_a_process_that_dies_is_started_again_and_leaves_what_it_has_counted(several: Several) -> None:
    told = Told(several.url)
    read(several, 30)
    before = several.serving
    os.kill(victim := max(before), signal.SIGSTOP)
    time.sleep(1.5)  # The parent has asked it by now whether it is well.
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(several.serving) == PROCESSES and victim not in several.serving, 20)
    assert len(several.serving & before) == PROCESSES - 1
    told.grows(lambda by: by.get(READS) == 30)
    (directory,) = several.directories
    until(lambda: not list(directory.glob(f"gauge_live*_{victim}.db")))
    until(lambda: told.now()["ai_agent_db_pool_size"] == PROCESSES * 10)
    assert "process_died" in several.log.read_text()
    read(several, 10)


def test_processes_do_not_outlive_their_parent(several: Several) -> None:
    serving = several.serving
    several.process.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in serving))
    several.process.wait()
    for left in several.directories:
        shutil.rmtree(left)
    several.environment["AI_AGENT_DRAIN_DELAY_SECONDS"] = "30"
    several.start()


def test_the_same_signal_again_does_not_wait(several: Several) -> None:
    serving = several.serving
    several.process.send_signal(signal.SIGTERM)
    until(lambda: "draining" in httpx.get(f"{several.url}/health/ready", timeout=30).text)
    time.sleep(0.5)
    assert several.process.poll() is None
    several.process.send_signal(signal.SIGTERM)
    assert several.process.wait(20) == 1
    assert not any(psutil.pid_exists(pid) for pid in serving)
    del several.environment["AI_AGENT_DRAIN_DELAY_SECONDS"]
    several.start()


def test_a_stop_that_meets_a_start_is_no_failure(several: Several) -> None:
    parent = psutil.Process(several.process.pid)
    before = parent.children()
    os.kill(max(several.serving), signal.SIGKILL)
    until(lambda: not set(parent.children()) <= set(before))
    several.process.send_signal(signal.SIGTERM)
    assert several.process.wait(20) == 0, several.log.read_text()
    several.start()


def test_a_stop_drains_them_all(several: Several) -> None:
    serving = several.serving
    with ExitStack() as stack:
        sockets = [stack.enter_context(conversing(several)) for _ in range(6)]
        several.process.send_signal(signal.SIGTERM)
        for socket in sockets:
            frames, code, _ = socket.closed()
            assert ([frame["t"] for frame in frames], code) == (["drain", "bye"], 4420)
    assert several.process.wait(20) == 0, several.log.read_text()
    assert not any(psutil.pid_exists(pid) for pid in serving)
    assert several.directories == []
    assert "Traceback" not in several.log.read_text()


def test_the_first_start_prints_one_key(postgres_url: str, valkey: ValkeyServer, tmp_path: Path) -> None:
    database_url = create_database(postgres_url)
    prepare(database_url)
    settings = {"AI_AGENT_DATABASE_URL": database_url, "AI_AGENT_REDIS_URL": valkey.url, "AI_AGENT_SECRET_KEY": SECRET}
    server = Several(None, tmp_path, "--workers", str(PROCESSES), **settings)
    printed = server.log.read_text()
    assert server.stop() == 0
    assert len(re.findall("Admin API key, shown this once", printed)) == 1
    assert re.findall(r"Listening on .*", printed) == [f"Listening on {server.url}, in {PROCESSES} processes"]


@pytest.mark.parametrize(
    "settings",
    [
        {"AI_AGENT_DATABASE_URL": "postgresql://u@127.0.0.1:1/x"},  # Each would count limits by itself.
        {"AI_AGENT_REDIS_URL": "redis://127.0.0.1:1"},  # On SQLite.
    ],
)
def test_what_processes_cannot_share_is_refused(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"AI_AGENT_DATA_DIR": str(tmp_path), **settings}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        serve("127.0.0.1", 0, None, workers=2, reload=False, worker=True)
    assert refused.value.message == "--workers 2 needs PostgreSQL and Redis, which all processes share"


def test_a_start_that_cannot_be_fails_once(several: Several) -> None:
    several.environment["AI_AGENT_DATABASE_URL"] = "postgresql://u@127.0.0.1:1/x"
    refused = several.command("serve", "--workers", "3", "--port", "0")
    assert refused.returncode == 1
    assert [line.partition(":")[0] for line in refused.stderr.splitlines()] == ["Error", "Hint"]
    assert "The database cannot be reached" in refused.stderr
