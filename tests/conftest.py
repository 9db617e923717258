"""Servers that several tests share, and the databases that each gets for itself."""

import asyncio
import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ai_agent.domain.identity import Tier
from ai_agent.domain.rate_limits import RouteClass
from ai_agent.security.api_keys import generate
from ai_agent.storage import migrations
from ai_agent.storage.engine import sqlite_path
from tests.contract.document import assert_documented
from tests.forkserver import Forked, fresh
from tests.model_server import ModelServer
from tests.servers import PostgresServer, ValkeyServer, free_port, wait_for_port
from tests.webhook_receiver import Receiver

KEY = generate("test")
SECRET = "a-secret-key-for-tests-of-32-characters"
LIMITED = [*RouteClass, "auth_failure", *(f"tier_{tier}" for tier in Tier)]
GENEROUS = {f"AI_AGENT_RATE_LIMIT_{name.upper()}": "1000000/minute" for name in LIMITED}
"""Limits that are counted, and that no test meets unless it wants to."""


QUICK = {"AI_AGENT_EXECUTION_SWEEP_SECONDS": "0.5"}
"""Nobody wants to wait in a test for what expires."""


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if running := os.environ.get("TEST_DATABASE_URL"):
        yield running
        return
    server = PostgresServer()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    if running := os.environ.get("TEST_REDIS_URL"):
        yield running
        return
    server = ValkeyServer()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """One of the module's own, that may be emptied, frozen and killed."""
    server = ValkeyServer()
    yield server
    server.stop()


def create_database(url: str) -> str:
    name = f"test_{uuid.uuid4().hex[:12]}"

    async def create() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(f'CREATE DATABASE "{name}"')
        await connection.close()

    asyncio.run(create())
    return url.rpartition("/")[0] + f"/{name}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('db')}/test.db"
    return create_database(request.getfixturevalue("postgres_url"))


@pytest.fixture
def empty_postgres(postgres_url: str) -> str:
    return create_database(postgres_url)


@cache
def _migrated_sqlite() -> Path:
    file = Path(tempfile.mkdtemp(prefix="sqlite-", dir="/tmp")) / "template.db"
    asyncio.run(migrations.upgrade(f"sqlite:///{file}"))
    atexit.register(shutil.rmtree, file.parent)
    return file


def prepare(database_url: str) -> None:
    """Brings a database to the newest schema; a new file by a copy, which takes no time."""
    path = sqlite_path(database_url)
    if path is None:
        asyncio.run(migrations.upgrade(database_url))
    elif not path.exists():
        shutil.copy(_migrated_sqlite(), path)


_SECRET = re.compile(r"SECRET|_KEY|PASSWORD")
_CREDENTIAL = re.compile(r"\b(?:sk|rt|wt)-[a-z]+-[A-Za-z0-9]{30,}|\beyJ[\w-]+\.[\w-]+\.[\w-]{20,}")
_SHOWN_ONCE = re.compile(r"Admin API key, shown this once:\s+\S+")


def assert_keeps_secrets(log: Path, environment: dict[str, str]) -> None:
    """Nothing that a process wrote holds a secret of its settings, nor a credential that it made or was shown."""
    written = _SHOWN_ONCE.sub("", log.read_text(errors="replace"))
    found = [name for name, value in environment.items() if _SECRET.search(name) and value and value in written]
    found += [f"{credential[:12]}…" for credential in _CREDENTIAL.findall(written)]
    assert not found, f"{log} holds {found}"


class Server:
    """`ai-agent serve` as its own process, as users run it. Without a database it is as new as on their first day."""

    spawn: Callable[..., "Forked | subprocess.Popen[bytes]"] = Forked

    def __init__(self, database_url: str | None, folder: Path, *arguments: str, **settings: str):
        self.folder, self._arguments = folder, arguments
        own = ("AI_AGENT_", "OPENAI_", "ANTHROPIC_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.environment = {**clean, "AI_AGENT_DATA_DIR": str(folder), "AI_AGENT_DRAIN_WINDOW_SECONDS": "2", **settings}
        if database_url is not None:
            self.environment |= {
                "AI_AGENT_DATABASE_URL": database_url,
                "AI_AGENT_SECRET_KEY": SECRET,
                "AI_AGENT_BOOTSTRAP_API_KEY": KEY,
                "AI_AGENT_LOG_FORMAT": "json",
            }
            self.environment = GENEROUS | self.environment
            prepare(database_url)
        self.start()

    def command(self, *arguments: str, check: bool = False) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "ai_agent", *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=check, cwd=self.folder, timeout=60
        )

    def start(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.folder / f"server-{time.monotonic_ns()}.log"
        arguments = ["serve", "--port", str(self.port), *self._arguments]
        self.process = type(self).spawn(arguments, self.environment, self.folder, self.log)
        try:
            wait_for_port(self.port, self.process)
            with httpx.Client(base_url=self.url) as http:
                assert http.get("/health/ready", timeout=20).status_code == 200
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(20)
        assert_keeps_secrets(self.log, self.environment)
        return code

    def client(self, key: str = KEY, **options: Any) -> httpx.Client:
        """A client that fails for every answer that the OpenAPI document does not know."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        hooks = {"response": [assert_documented]}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=30, event_hooks=hooks, **options)


class FreshServer(Server):
    """As a user starts it."""

    spawn = staticmethod(fresh)


class WorkerProcess:
    """`ai-agent worker` beside a server: its settings, and its data directory unless it is on another machine."""

    def __init__(self, beside: Server, *arguments: str, folder: Path | None = None):
        self._arguments, self._folder = arguments, folder or beside.folder
        self._environment = beside.environment | {"AI_AGENT_DATA_DIR": str(self._folder)}
        self.start()

    def start(self) -> None:
        self.log = self._folder / f"worker-{time.monotonic_ns()}.log"
        self.process = Forked(["worker", *self._arguments], self._environment, self._folder, self.log)
        deadline = time.monotonic() + 20
        while "Working" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(20)
        assert_keeps_secrets(self.log, self._environment)
        return code

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


class Cluster:
    """An API without a worker and two workers, on PostgreSQL and a Redis of their own."""

    def __init__(self, database_url: str, redis: ValkeyServer, folder: Path, **settings: str):
        self.redis = redis
        self.api = Server(database_url, folder, "--no-worker", AI_AGENT_REDIS_URL=redis.url, **settings)
        self.workers = [WorkerProcess(self.api) for _ in range(2)]

    def stop(self) -> None:
        processes: list[WorkerProcess | Server] = [*self.workers, self.api]
        for process in processes:
            if process.process.poll() is None:
                process.stop()


class Nodes:
    """Two API nodes, and a worker beside neither of them; or one process that is both nodes."""

    def __init__(self, first: Server, second: Server | None = None, worker: WorkerProcess | None = None):
        self.first, self.second, self.worker = first, second or first, worker

    @classmethod
    def on(cls, database_url: str, redis_url: str, folder: Path, **settings: str) -> "Nodes":
        """On PostgreSQL and Redis, with a data directory each, as machines have it."""
        folders = [folder / name for name in ("first", "second", "worker")]
        for one in folders:
            one.mkdir()
        first, second = (
            Server(database_url, one, "--no-worker", AI_AGENT_REDIS_URL=redis_url, **settings) for one in folders[:2]
        )
        return cls(first, second, WorkerProcess(first, folder=folders[2]))

    def stop(self) -> None:
        processes: list[WorkerProcess | Server | None] = [self.worker, self.first, self.second]
        for one in processes:
            if one is not None and one.process.poll() is None:
                one.stop()


@pytest.fixture(scope="module", params=["one process", "two nodes"])
def nodes(
    request: pytest.FixtureRequest, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    settings = {"OPENAI_BASE_URL": f"{model.url}/v1", **QUICK, **getattr(request.module, "SETTINGS", {})}
    if request.param == "two nodes":
        database_url = create_database(request.getfixturevalue("postgres_url"))
        started = Nodes.on(database_url, request.getfixturevalue("valkey").url, folder, **settings)
    else:
        started = Nodes(Server(f"sqlite:///{folder}/test.db", folder, **settings))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module", params=["embedded", "distributed"])
def deployment(
    request: pytest.FixtureRequest, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One process on SQLite, and an API beside two workers on PostgreSQL and Redis: the same tests hold for both."""
    if request.param == "distributed":
        cluster: Cluster = request.getfixturevalue("cluster")
        yield cluster.api
        return
    folder = tmp_path_factory.mktemp("embedded")
    started = Server(f"sqlite:///{folder}/test.db", folder, OPENAI_BASE_URL=f"{model.url}/v1", **QUICK)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def server(database_url: str, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(
        database_url,
        tmp_path_factory.mktemp("server"),
        OPENAI_BASE_URL=f"{model.url}/v1",
        ANTHROPIC_BASE_URL=model.url,
        ANTHROPIC_API_KEY="sk-ant-canary",
    )
    yield started
    started.stop()


@pytest.fixture(scope="module")
def cluster(
    postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Each test leaves both workers running, and Redis."""
    folder = tmp_path_factory.mktemp("cluster")
    started = Cluster(create_database(postgres_url), valkey, folder, OPENAI_BASE_URL=f"{model.url}/v1", **QUICK)
    yield started
    started.stop()


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


@pytest.fixture
def path() -> str:
    """Of the receiver, of this test only."""
    return f"/{uuid.uuid4().hex}"
