"""Servers that several of the tests of faults use."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cluster, Server
from tests.faults.driving import database_of, make_agent
from tests.faults.oracle import assert_well
from tests.integration.test_executions import started
from tests.model_server import ModelServer


@pytest.fixture
def alone(model: ModelServer, tmp_path: Path) -> Iterator[Server]:
    """One process on SQLite, with room for all runs of a test at the same time."""
    settings = {"OPENAI_BASE_URL": f"{model.url}/v1", "AI_AGENT_EXECUTION_CONCURRENCY": "32"}
    server = Server(f"sqlite:///{tmp_path}/test.db", tmp_path, **settings)
    yield server
    model._script.clear()
    server.stop()


@pytest.fixture(scope="module", params=["one process", "cluster"])
def deployed(
    request: pytest.FixtureRequest, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One process on SQLite, or the API of a cluster."""
    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        with cluster.api.client() as api:  # Each worker's first run imports the agent library, which takes its time.
            assert_well(
                api,
                database_of(cluster.api),
                [started(api, make_agent(api)) for _ in range(8)],
                time.monotonic(),
            )
        yield cluster.api
        return
    folder = tmp_path_factory.mktemp("server")
    alone = Server(f"sqlite:///{folder}/test.db", folder, OPENAI_BASE_URL=f"{model.url}/v1")
    yield alone
    alone.stop()
