"""A worker of its own tells its health and metrics where it is given a port."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server, WorkerProcess, create_database
from tests.model_server import ModelServer
from tests.prometheus import Told
from tests.runs import ended, make_agent, start
from tests.servers import ValkeyServer, free_port


@pytest.fixture
def beside(postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path: Path) -> Iterator[Server]:
    settings = {"AI_AGENT_REDIS_URL": valkey.url, "OPENAI_BASE_URL": f"{model.url}/v1"}
    started = Server(create_database(postgres_url), tmp_path, "--no-worker", **settings)
    yield started
    started.stop()


def test_a_worker_tells_its_health_and_what_it_did(beside: Server) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    worker = WorkerProcess(beside, "--port", str(port))
    assert httpx.get(f"{url}/health/live").json() == {"status": "alive"}
    assert httpx.get(f"{url}/health/ready").json() == {"status": "ready", "degraded": []}
    assert httpx.get(f"{url}/api/v1/sessions").json()["code"] == "not_found"
    told = Told(url)
    with beside.client() as api:
        assert ended(api, start(api, make_agent(api))["id"], seconds=30)["status"] == "completed"
    told.grows(
        lambda by: (
            by.get('ai_agent_executions_total{status="completed"}') == 1
            and by.get('ai_agent_model_calls_total{model="m",outcome="completed",provider="openai"}') == 1
        )
    )
    assert f"health and metrics on {url}" in worker.log.read_text()
    assert worker.stop() == 0
    assert "Traceback" not in worker.log.read_text()


def test_without_a_port_a_worker_listens_nowhere(beside: Server) -> None:
    worker = WorkerProcess(beside)
    assert "health" not in worker.log.read_text()
    assert worker.stop() == 0
