"""What Prometheus is told of requests, models, MCP servers and the database."""

import socket
import uuid

import httpx
import pytest

from tests.conftest import Server
from tests.model_server import ModelServer, Reply
from tests.prometheus import Lines, Told
from tests.runs import ended, make_agent, start


@pytest.fixture
def told(server: Server) -> Told:
    return Told(server.url)


def requests(by: Lines) -> Lines:
    """Those that are counted, but for the looks at `/metrics` themselves."""
    name = "ai_agent_http_requests_total"
    return {line.removeprefix(name): n for line, n in by.items() if line.startswith(name) and "/metrics" not in line}


def test_requests_are_counted_by_template_method_and_status(server: Server, api: httpx.Client, told: Told) -> None:
    session = api.post("/sessions", json={}).json()["id"]
    for _ in range(3):
        api.get(f"/sessions/{session}")
    api.head(f"/sessions/{session}")
    api.get(f"/sessions/{uuid.uuid4()}")
    one = "/api/v1/sessions/{session_id}"
    told.grows(
        lambda by: (
            requests(by)
            == {
                '{method="POST",route="/api/v1/sessions",status="201"}': 1,
                f'{{method="GET",route="{one}",status="200"}}': 3,
                f'{{method="HEAD",route="{one}",status="200"}}': 1,
                f'{{method="GET",route="{one}",status="404"}}': 1,
            }
            and by[f'ai_agent_http_request_duration_seconds_count{{method="GET",route="{one}"}}'] == 4
            and by[f'ai_agent_http_request_duration_seconds_bucket{{le="+Inf",method="GET",route="{one}"}}'] == 4
            and 0 < by[f'ai_agent_http_request_duration_seconds_sum{{method="GET",route="{one}"}}'] < 30
        )
    )


def test_what_clients_make_up_has_one_label(server: Server, told: Told) -> None:
    for _ in range(3):
        httpx.get(f"{server.url}/{uuid.uuid4()}")
    httpx.request("DELETE", f"{server.url}/health")
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"PROPFIND /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 405")
    told.grows(
        lambda by: (
            requests(by)
            == {
                '{method="GET",route="unmatched",status="404"}': 3,
                '{method="DELETE",route="unmatched",status="405"}': 1,
                '{method="other",route="unmatched",status="405"}': 1,
            }
        )
    )


def test_a_stream_is_counted_when_it_begins(api: httpx.Client, model: ModelServer, told: Told) -> None:
    model.go_on.clear()
    model.script(Reply("one two three", pause_after=1))
    with api.stream("POST", f"/agents/{make_agent(api)}/execute/stream", json={"message": "x"}) as stream:
        line = 'route="/api/v1/agents/{agent_id}/execute/stream"'
        told.grows(lambda by: [n for name, n in requests(by).items() if line in name] == [1])
        model.go_on.set()
        stream.read()


def test_models_are_told_apart(api: httpx.Client, model: ModelServer, told: Told) -> None:
    model.script(Reply("one two", delay=0.2), Reply(status=400))
    agent = make_agent(api, config={"model": "slow"})
    for status in ("completed", "failed"):
        assert ended(api, start(api, agent)["id"], seconds=30)["status"] == status
    slow = 'model="slow",provider="openai"'
    told.grows(
        lambda by: (
            by[f"ai_agent_model_time_to_first_token_seconds_count{{{slow}}}"] == 1
            and by[f"ai_agent_model_time_to_first_token_seconds_sum{{{slow}}}"] >= 0.2
            and by[f"ai_agent_model_call_seconds_count{{{slow}}}"] == 1
            and by['ai_agent_model_calls_total{model="slow",outcome="completed",provider="openai"}'] == 1
            and by['ai_agent_model_calls_total{model="slow",outcome="failed",provider="openai"}'] == 1
            and by['ai_agent_model_tokens_total{kind="output",model="slow",provider="openai"}'] > 0
        )
    )


def test_a_model_that_never_answered_has_no_name(api: httpx.Client, model: ModelServer, told: Told) -> None:
    model.script(Reply(status=400))
    made_up = uuid.uuid4().hex
    assert ended(api, start(api, make_agent(api, config={"model": made_up}))["id"], seconds=30)["status"] == "failed"
    told.grows(lambda by: by['ai_agent_model_calls_total{model="other",outcome="failed",provider="openai"}'] == 1)
    assert not any(made_up in line for line in told.lines)


def test_mcp_servers_are_told_by_status(api: httpx.Client, told: Told) -> None:
    body = {"name": "away", "transport": "streamable_http", "endpoint": "https://mcp.example/mcp", "enabled": False}
    assert api.post("/mcp-servers", json=body).status_code == 201
    told.grows(lambda by: by.get('ai_agent_mcp_servers{status="disabled"}') == 1)
    assert told.lines['ai_agent_mcp_servers{status="connected"}'] == 0


def test_connections_of_the_database_are_told(database_url: str, told: Told) -> None:
    size = 10 if database_url.startswith("postgresql") else 7
    assert (told.lines["ai_agent_db_pool_size"], told.lines["ai_agent_db_pool_waiting"]) == (size, 0)
    assert 0 <= told.lines["ai_agent_db_pool_in_use"] < size
