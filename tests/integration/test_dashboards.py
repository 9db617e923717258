"""The dashboard and the alerts ask for what servers really tell, and the documents name what there is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server, WorkerProcess, create_database
from tests.forkserver import ROOT
from tests.mcp_peer import Peer
from tests.model_server import Call, ModelServer, Reply
from tests.prometheus import told_by
from tests.runs import ended, make_agent, start
from tests.servers import ValkeyServer, free_port
from tests.sockets import conversing

ALERTS = ROOT / "docker" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboard.json"
OPERATIONS = ROOT / "docs" / "operations.md"

ADDED = {"job", "instance"}
"""Labels that Prometheus adds to all that it scrapes."""

Known = dict[str, set[str]]


@pytest.fixture(scope="module")
def known(
    postgres_url: str, valkey: ValkeyServer, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Known:
    """The labels of each series that an API and a worker tell behind some traffic, by its name."""
    settings = {"AI_AGENT_REDIS_URL": valkey.url, "OPENAI_BASE_URL": f"{model.url}/v1"}
    settings |= {"AI_AGENT_OUTBOUND_ALLOW": "127.0.0.1/32"}
    folder = tmp_path_factory.mktemp("dashboards")
    server = Server(create_database(postgres_url), folder, "--no-worker", **settings)
    worker = WorkerProcess(server, "--port", str(port := free_port()))
    with Peer() as peer, server.client() as api, conversing(server) as socket:
        server_body = {"name": "peer", "transport": "streamable_http", "endpoint": peer.url}
        mcp_server = api.post("/mcp-servers", json=server_body).json()["id"]
        assert api.get(f"/mcp-servers/{mcp_server}/health").status_code == 200
        model.script(Reply(calls=[Call("calculator", {"expression": "6 * 7"})]), Reply("42"))
        run = start(api, make_agent(api, tools=["calculator"]))
        assert ended(api, run["id"], seconds=30)["status"] == "completed"
        socket.ask("subscribe", ch="system", since={"seq": 1, "epoch": "another"})
        httpx.get(f"{server.url}/nowhere")
    found: Known = {"up": set()}
    for url in (server.url, f"http://127.0.0.1:{port}"):
        for family in text_string_to_metric_families(told_by(url)):
            if family.type == "counter":  # One with labels may have no sample yet.
                found.setdefault(f"{family.name}_total", set())
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    assert (worker.stop(), server.stop()) == (0, 0)
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Every expression, as Prometheus gets it, by where it stands."""
    shown = {f"{p['title']} {t['refId']}": t["expr"] for p in panels() for t in p["targets"]}
    shown = {name: expr.replace("$__rate_interval", "5m") for name, expr in shown.items()}
    return shown | {rule["alert"]: rule["expr"] for rule in alerts()}


def selectors(node: Any) -> list[Any]:
    """What a part of an expression selects."""
    match node:
        case promql.VectorSelector():
            return [node]
        case promql.MatrixSelector():
            return [node.vector_selector]
        case promql.Call():
            return [each for argument in node.args for each in selectors(argument)]
        case promql.BinaryExpr():
            return selectors(node.lhs) + selectors(node.rhs)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return selectors(node.expr)
    return []


def parts(node: Any) -> Iterator[Any]:
    yield node
    below = [getattr(node, name, None) for name in ("expr", "lhs", "rhs")] + list(getattr(node, "args", []))
    for each in below:
        if each is not None:
            yield from parts(each)


def faults(expression: str, known: Known) -> list[str]:
    """What an expression asks for that there is not."""
    tree = promql.parse(expression)
    found = [f"no series {each.name}" for each in selectors(tree) if each.name not in known]
    for each in selectors(tree):
        found += [
            f"{each.name} has no {m.name}"
            for m in each.matchers.matchers
            if m.name not in known.get(each.name, set()) | ADDED
        ]
    for node in parts(tree):
        if isinstance(node, promql.AggregateExpr):
            by = set(node.modifier.labels) if node.modifier else set()
            found += [
                f"{each.name} has no {label}"
                for each in selectors(node.expr)
                for label in sorted(by - known.get(each.name, set()) - ADDED)
            ]
            buckets = [each.name for each in selectors(node.expr) if each.name.endswith("_bucket")]
            done = any(
                isinstance(each, promql.Call) and each.func.name == "histogram_quantile" for each in parts(node.expr)
            )
            if buckets and "le" not in by and not done:
                found.append(f"{buckets} without le")
    return found


def test_the_checks_find_what_is_wrong() -> None:
    known: Known = {"a_bucket": {"le", "route"}}
    wrong = [
        "rate(b[5m])",
        'rate(a_bucket{method="x"}[5m])',
        "sum by (route) (rate(a_bucket[5m]))",
        "sum by (le, x) (a_bucket)",
    ]
    assert [bool(faults(one, known)) for one in wrong] == [True] * 4
    assert faults("histogram_quantile(0.9, sum by (le, route) (rate(a_bucket{job='x'}[5m])))", known) == []


def test_every_query_asks_for_what_servers_tell(known: Known) -> None:
    assert {name: wrong for name, expr in queries().items() if (wrong := faults(expr, known))} == {}


def headings() -> set[str]:
    """Of the document for operators, as links name them."""
    titles = re.findall(r"^#+ (.*)$", OPERATIONS.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["for"]
    assert rule["annotations"]["summary"]
    document, _, heading = rule["annotations"]["runbook"].partition("#")
    assert ROOT / document == OPERATIONS
    assert heading in headings()


def test_every_panel_asks_the_data_source_that_is_chosen() -> None:
    uids = {each["datasource"]["uid"] for panel in panels() for each in (panel, *panel["targets"])}
    assert uids == {"${datasource}"}
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_documents_name_the_families_that_there_are(known: Known) -> None:
    def names(path: Path) -> set[str]:
        return set(re.findall(r"ai_agent_[a-z_]*[a-z]", path.read_text()))

    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known if name.startswith("ai_agent_")}
    table = OPERATIONS.read_text().partition("## Metrics and alerts")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(ai_agent_\w+)`", table))
    assert families - told == set(), "not in the table"
    assert names(OPERATIONS) - families - set(known) == set(), "not told by servers"
