"""Spans arrive at a collector: named by route, inside the caller's trace, and a run's inside of the request's."""

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector import Collector, Span
from tests.conftest import KEY, Cluster, Server, create_database
from tests.mcp_peer import Peer
from tests.model_server import Call, ModelServer, Reply
from tests.runs import ended, make_agent, start
from tests.servers import free_port

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.exporter") is None, reason="the extra `otel` is not installed"
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
CANARY = "canary-7f3a"


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.close()


def telling(collector: Collector, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100", **more}


def headers(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}


def named(spans: list[Span], name: str) -> Span:
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, (name, [span.name for span in spans])
    return found[0]


@pytest.mark.parametrize("kind", ["embedded", "distributed"])
def test_a_run_is_a_tree_in_the_trace_of_who_asked(
    kind: str, collector: Collector, request: pytest.FixtureRequest, model: ModelServer, tmp_path: Path
) -> None:
    """The request, the run, its two requests to the model and its call of a tool, across processes."""
    settings = {"OPENAI_BASE_URL": f"{model.url}/v1", **telling(collector)}
    cluster = None
    if kind == "distributed":
        database_url = create_database(request.getfixturevalue("postgres_url"))
        cluster = Cluster(database_url, request.getfixturevalue("valkey"), tmp_path, **settings)
    server = cluster.api if cluster else Server(f"sqlite:///{tmp_path}/x.db", tmp_path, **settings)
    model.script(Reply(calls=[Call("calculator", {"expression": "6 * 7"})]), Reply(f"42 {CANARY}"))
    asked = len(model.requests)
    with server.client() as api:
        agent = make_agent(api, tools=["calculator"], system_prompt=CANARY, name="counter")
        path = f"/agents/{agent}/execute/stream"
        api.get("/sessions", params={"search": CANARY})
        sent = headers() | {"X-Correlation-ID": "tree"}
        assert "completed" in api.post(path, json={"message": f"Compute {CANARY}"}, headers=sent).text
    spans = collector.until(
        lambda found: (
            {"invoke_agent counter", "POST /api/v1/agents/{agent_id}/execute/stream"} <= {s.name for s in found}
        )
    )
    mine = [span for span in spans if span.trace == TRACE]
    outer = named(mine, "POST /api/v1/agents/{agent_id}/execute/stream")
    assert (outer.parent, outer.kind, outer.service) == (CALLER, "SERVER", "ai-agent")
    told = {"http.request.method": "POST", "http.response.status_code": 200, "correlation_id": "tree"}
    assert told.items() <= outer.attributes.items()
    run = named(mine, "invoke_agent counter")
    inside = {span.id for span in mine if span.parent == outer.id}
    assert run.parent in {outer.id, *inside}, "It is in the request that queued it"
    about = {"correlation_id": "tree", "execution_id": run.attributes["execution_id"]}
    expected = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": agent,
        "ai_agent.execution.status": "completed",
    }
    assert {**about, **expected}.items() <= run.attributes.items()
    chats = [span for span in mine if span.name == "chat m"]
    assert [(span.parent, span.kind) for span in chats] == [(run.id, "CLIENT")] * 2
    expected = {"gen_ai.provider.name": "openai", "gen_ai.request.model": "m", **about}
    assert all(expected.items() <= span.attributes.items() for span in chats)
    assert all(span.attributes["gen_ai.usage.input_tokens"] > 0 for span in chats)
    tool = named(mine, "execute_tool calculator")
    assert tool.parent == run.id
    assert {"gen_ai.tool.name": "calculator", **about}.items() <= tool.attributes.items()
    posts = [span for span in mine if span.name == "POST"]
    assert {span.parent for span in posts} == {span.id for span in chats}
    assert [r["headers"]["traceparent"].split("-")[1:3] for r in model.requests[asked:]] == [
        [TRACE, span.id] for span in posts
    ]
    statements = [span for span in mine if "db.query.summary" in span.attributes]
    assert {"INSERT executions", "SELECT agents"} <= {span.name for span in statements}
    assert {span.attributes["db.system.name"] for span in statements} == {"postgresql" if cluster else "sqlite"}
    if cluster:
        assert {"redis charge", "redis enqueue", "redis append"} <= {span.name for span in mine}
    assert CANARY not in str(spans)
    assert KEY not in str(spans)
    cluster.stop() if cluster else server.stop()


def test_nothing_tells_of_what_nobody_asked_for(collector: Collector, tmp_path: Path) -> None:
    """Processes look at their database again and again."""
    late = telling(collector, OTEL_BSP_SCHEDULE_DELAY="60000")
    server = Server(f"sqlite:///{tmp_path}/x.db", tmp_path, **late)
    time.sleep(2)
    with server.client() as api:
        api.get("/sessions")
        assert api.get("/nowhere").status_code == 404
    assert server.stop() == 0
    roots = [span.name for span in collector.spans if not span.parent]
    assert roots == ["GET /health/ready", "GET /api/v1/sessions", "GET"], "And what was left is sent at the end"


def test_what_the_variables_say_holds(collector: Collector, tmp_path: Path) -> None:
    variables = {
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }
    server = Server(f"sqlite:///{tmp_path}/x.db", tmp_path, **telling(collector, **variables))
    with server.client() as api:
        api.get("/sessions")
        api.get("/sessions", headers=headers())
    spans = collector.until(lambda found: "GET /api/v1/sessions" in {span.name for span in found})
    assert {(span.trace, span.service) for span in spans} == {(TRACE, "mine")}
    assert collector.headers[0]["x-tenant"] == "a"
    assert server.stop() == 0


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_it_can_be_switched_off(collector: Collector, tmp_path: Path, off: dict[str, str]) -> None:
    server = Server(f"sqlite:///{tmp_path}/x.db", tmp_path, **telling(collector, **off))
    with server.client() as api:
        api.get("/sessions", headers=headers())
    assert server.stop() == 0
    assert collector.bodies == []


@pytest.mark.parametrize("how", ["dead", "slow"])
def test_a_collector_that_is_no_help_is_no_harm(how: str, tmp_path: Path) -> None:
    collector = Collector(hangs=True)
    where = {} if how == "slow" else {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    server = Server(f"sqlite:///{tmp_path}/x.db", tmp_path, **{**telling(collector), **where})
    with server.client() as api:
        began = time.monotonic()
        for _ in range(50):
            assert api.get("/sessions").status_code == 200
        assert time.monotonic() - began < 10
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 6
    assert CANARY not in server.log.read_text()
    collector.close()


def test_mcp_servers_and_failures(collector: Collector, model: ModelServer, tmp_path: Path) -> None:
    settings = {"OPENAI_BASE_URL": f"{model.url}/v1", "AI_AGENT_OUTBOUND_ALLOW": "127.0.0.1/32"}
    server = Server(f"sqlite:///{tmp_path}/x.db", tmp_path, **settings, **telling(collector))
    with Peer() as peer, server.client() as api:
        body = {"name": "peer", "transport": "streamable_http", "endpoint": peer.url}
        made = api.post("/mcp-servers", json=body).json()["id"]
        assert api.get(f"/mcp-servers/{made}/health", headers=headers()).status_code == 200
        heard = [r.headers["traceparent"].split("-")[1] for r in peer.requests if "traceparent" in r.headers]
        assert heard
        assert set(heard) == {TRACE}
        model.script(Reply(status=400))
        assert ended(api, start(api, make_agent(api, name="wrong"))["id"], seconds=30)["status"] == "failed"
    spans = collector.until(lambda found: "invoke_agent wrong" in {span.name for span in found})
    for name in ("invoke_agent wrong", "chat m"):
        span = named(spans, name)
        assert (span.failed, span.attributes["error.type"]) == (True, "external_service_error")
    assert server.stop() == 0
