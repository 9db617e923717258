"""Each line of the log says of which request and run it is."""

import json
import time
from typing import Any

import httpx

from tests.conftest import Server
from tests.model_server import ModelServer, Reply
from tests.runs import ended, make_agent, start


def lines(server: Server, correlation_id: str) -> list[dict[str, Any]]:
    text = server.log.read_text().splitlines()
    parsed = [json.loads(line) for line in text if line.startswith("{")]
    return [line for line in parsed if line.get("correlation_id") == correlation_id]


def until_logged(server: Server, correlation_id: str, *events: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 30
    while True:
        found = lines(server, correlation_id)
        if sorted(line["event"] for line in found) == sorted(events):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_a_run_and_the_request_that_asked_for_it_are_found_together(
    server: Server, api: httpx.Client, model: ModelServer
) -> None:
    model.script(Reply("hello"))
    agent = make_agent(api)
    api.headers["X-Correlation-ID"] = "together"
    run = start(api, agent)
    api.headers["X-Correlation-ID"] = "another"
    ended(api, run["id"], seconds=30)
    request, end = sorted(until_logged(server, "together", "request", "run_ended"), key=lambda line: str(line["event"]))
    assert (end["execution_id"], end["principal"], end["status"]) == (run["id"], request["principal"], "completed")
    told = {"method": "POST", "route": "/api/v1/agents/{agent_id}/executions", "status": 202}
    assert told.items() <= request.items()
    assert request["bytes"] > 0
    assert request["duration_ms"] > 0


def test_a_request_about_a_run_names_it(server: Server, api: httpx.Client, model: ModelServer) -> None:
    run = start(api, make_agent(api))
    ended(api, run["id"], seconds=30)
    api.headers["X-Correlation-ID"] = "about"
    api.get(f"/executions/{run['id']}")
    (line,) = until_logged(server, "about", "request")
    assert (line["execution_id"], line["route"]) == (run["id"], "/api/v1/executions/{execution_id}")
