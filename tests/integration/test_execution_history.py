"""Runs to look back on: lists, the wait for an end, and the metrics of an agent."""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from ai_agent.domain.execution_history import ExecutionFilter, Window
from ai_agent.storage import execution_history
from ai_agent.storage.database import Database, Reader
from ai_agent.storage.engine import create_database
from ai_agent.storage.keyset import Bounds
from ai_agent.storage.statements import Statement
from tests.conftest import Server
from tests.conftest import create_database as create_empty
from tests.integration.test_executions import agent
from tests.integration.test_identity import Caller
from tests.model_server import ModelServer, Reply
from tests.sql import execute

STATUSES = ["queued", "running", "waiting", "completed", "failed", "cancelled"]
BUCKETS = {"1h": (12, 300), "24h": (24, 3600), "7d": (28, 21600), "30d": (30, 86400)}
NOBODY = str(uuid.UUID(int=0))


def run(database_url: str, agent_id: str, session_id: str, status: str, ago: timedelta, **columns: Any) -> str:
    """Stores a run that was asked for so long ago."""
    at = (datetime.now(UTC) - ago).isoformat().replace("+00:00", "Z")
    row = {
        "id": str(uuid.uuid4()),
        "owner_id": "admin",
        "agent_id": agent_id,
        "agent_version": 1,
        "session_id": session_id,
        "status": status,
        "metadata": "{}",
        "holds_session": False,
        "epoch": "0",
        "queued_at": at,
        "finished_at": "2999-01-01T00:00:00.000000Z" if status in STATUSES[3:] else None,
        # Nobody takes it.
        "lease_until": "2999-01-01T00:00:00.000000Z",
        **columns,
    }
    values = ", ".join(
        "NULL" if v is None else repr(v) if isinstance(v, (str, float)) else str(v) for v in row.values()
    )
    execute(database_url, f"INSERT INTO executions ({', '.join(row)}) VALUES ({values})")
    return str(row["id"])


@pytest.fixture
def session(api: httpx.Client) -> str:
    return str(api.post("/sessions", json={}).json()["id"])


@pytest.fixture(scope="module")
def stranger(server: Server) -> Iterator[httpx.Client]:
    with Caller(server, "stranger", "agents:execute", "agents:read") as caller:
        yield caller.http


def listed(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_runs_are_listed_newest_first_by_what_they_are_filtered_by(
    api: httpx.Client, database_url: str, session: str
) -> None:
    mine, other = agent(api), agent(api)
    another = api.post("/sessions", json={}).json()["id"]
    old = run(database_url, mine, session, "failed", timedelta(days=2))
    new = run(database_url, mine, session, "completed", timedelta(hours=1))
    elsewhere = run(database_url, mine, another, "completed", timedelta(hours=2))
    others = run(database_url, other, session, "completed", timedelta(hours=3))
    assert listed(api.get(f"/agents/{mine}/executions")) == [new, elsewhere, old]
    assert listed(api.get("/executions", params={"session_id": session})) == [new, others, old]
    ours = {"agent_id": mine}
    assert listed(api.get("/executions", params=ours | {"sort_order": "asc"})) == [old, elsewhere, new]
    assert listed(api.get("/executions", params=ours | {"status": "failed"})) == [old]
    for path, params in ((f"/agents/{mine}/executions", {}), ("/executions", ours)):
        yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        assert listed(api.get(path, params=params | {"created_after": yesterday})) == [new, elsewhere]
        assert listed(api.get(path, params=params | {"created_before": yesterday})) == [old]
        assert listed(api.get(path, params=params | {"session_id": another})) == [elsewhere]


def test_pages_of_runs_follow_each_other(api: httpx.Client, database_url: str, session: str) -> None:
    mine = agent(api)
    ids = [run(database_url, mine, session, "completed", timedelta(minutes=minute)) for minute in range(5)]
    seen, path = [], f"/agents/{mine}/executions?limit=2&include_total=true"
    cursor = ""
    while True:
        page = api.get(path + cursor)
        assert page.json()["total"] == 5
        seen += listed(page)
        if not page.json()["has_more"]:
            break
        cursor = f"&cursor={page.json()['next_cursor']}"
    assert seen == ids


def test_runs_of_another_owner_are_nowhere(
    api: httpx.Client, stranger: httpx.Client, database_url: str, session: str
) -> None:
    mine = agent(api)
    run(database_url, mine, session, "completed", timedelta(minutes=1))
    assert listed(stranger.get("/executions", params={"agent_id": mine})) == []
    for path in (f"/agents/{mine}/executions", f"/agents/{mine}/metrics"):
        assert stranger.get(path).status_code == 404
        assert api.get(path.replace(mine, NOBODY)).status_code == 404
    assert api.delete(f"/agents/{mine}").status_code == 204
    assert api.get(f"/agents/{mine}/executions").status_code == 404
    assert len(listed(api.get("/executions", params={"agent_id": mine}))) == 1


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/executions", "status", "done"),
        ("/executions", "agent_id", "me"),
        ("/executions", "session_id", "x"),
        ("/executions", "created_after", "yesterday"),
        ("/executions", "created_before", "2026-01-01T00:00:00"),
        ("/executions", "sort_by", "status"),
        ("/executions", "limit", "101"),
        ("/executions", "cursor", "x"),
        ("/agents/{agent}/executions", "agent_id", NOBODY),
        ("/agents/{agent}/executions", "status", "done"),
        ("/agents/{agent}/metrics", "window", "2h"),
        (f"/executions/{NOBODY}", "wait", "61"),
        (f"/executions/{NOBODY}", "wait", "-1"),
        (f"/executions/{NOBODY}", "wait", "long"),
    ],
)
def test_what_cannot_be_asked_for_is_named(api: httpx.Client, path: str, name: str, value: str) -> None:
    refused = api.get(path.format(agent=agent(api)), params={name: value})
    assert refused.status_code == 422, refused.text
    assert [error["field"] for error in refused.json()["validation_errors"]] == [name]


def started(api: httpx.Client, model: ModelServer, reply: Reply) -> str:
    model.script(reply)
    path = f"/agents/{agent(api)}/execute"
    answer = api.post(path, json={"message": "x"}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return f"/executions/{answer.json()['id']}"


def test_a_wait_ends_with_the_run(api: httpx.Client, model: ModelServer) -> None:
    path = started(api, model, Reply("one two three four", delay=0.2))
    began = time.monotonic()
    ended = api.get(path, params={"wait": 20})
    assert ended.json()["status"] == "completed"
    finished = datetime.fromisoformat(ended.json()["finished_at"])
    assert datetime.now(UTC) - finished < timedelta(seconds=0.4)
    assert time.monotonic() - began < 10
    began = time.monotonic()
    unchanged = api.get(path, params={"wait": 20}, headers={"If-None-Match": ended.headers["etag"]})
    assert (unchanged.status_code, time.monotonic() - began < 1) == (304, True)
    assert api.get(path, params={"wait": 0}).json() == ended.json()


def test_a_wait_that_is_over_answers_what_is(api: httpx.Client, database_url: str, session: str) -> None:
    path = f"/executions/{run(database_url, agent(api), session, 'waiting', timedelta(0))}"
    now = api.get(path)
    for tag, status in ((now.headers["etag"], 304), ('"other"', 200)):
        began = time.monotonic()
        assert api.get(path, params={"wait": 1}, headers={"If-None-Match": tag}).status_code == status
        assert 0.9 < time.monotonic() - began < 1.9


def test_nobody_waits_for_what_is_not_his(api: httpx.Client, stranger: httpx.Client, model: ModelServer) -> None:
    path = started(api, model, Reply("one two three", delay=0.3))
    began = time.monotonic()
    assert stranger.get(path, params={"wait": 20}).status_code == 404
    assert time.monotonic() - began < 1
    assert api.get(path, params={"wait": 20}).json()["status"] == "completed"


def test_a_server_that_stops_lets_go_who_wait(
    server: Server, api: httpx.Client, database_url: str, session: str
) -> None:
    waiting = run(database_url, agent(api), session, "waiting", timedelta(0))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.get, f"/executions/{waiting}", params={"wait": 30})
        time.sleep(0.5)
        began = time.monotonic()
        assert server.stop() == 0
        assert answer.result().json()["status"] == "waiting"
        assert time.monotonic() - began < 5
    server.start(server.port)


def test_an_agent_without_runs_has_metrics_of_nothing(api: httpx.Client) -> None:
    metrics = api.get(f"/agents/{agent(api)}/metrics").json()
    assert metrics.pop("series")
    nothing = {"p50": None, "p95": None, "p99": None}
    assert metrics == {
        "window": "24h",
        "total": 0,
        "by_status": dict.fromkeys(STATUSES, 0),
        "success_rate": None,
        "latency_ms": nothing,
        "time_to_first_token_ms": nothing,
        "tokens": {"input": 0, "output": 0},
        "cost": 0.0,
        "tool_calls": 0,
    }


def test_metrics_add_up_the_runs_of_the_agent(api: httpx.Client, database_url: str, session: str) -> None:
    mine, other = agent(api), agent(api)
    for number in range(1, 11):
        columns: dict[str, Any] = {
            "latency_ms": number * 100,
            "first_token_ms": number,
            "input_tokens": 3,
            "output_tokens": 2,
        }
        columns |= {"cost": 0.25, "tool_call_count": 1} if number % 2 else {"cost": None}
        status = "failed" if number == 10 else "completed"
        run(database_url, mine, session, status, timedelta(minutes=30), **columns)
    run(database_url, mine, session, "cancelled", timedelta(hours=2), latency_ms=99999, input_tokens=7, output_tokens=1)
    for status in ("queued", "running", "waiting"):
        run(database_url, mine, session, status, timedelta(hours=5))
    run(database_url, mine, session, "failed", timedelta(hours=25), latency_ms=1)
    run(database_url, other, session, "failed", timedelta(minutes=30), latency_ms=1)
    metrics = api.get(f"/agents/{mine}/metrics").json()
    series = metrics.pop("series")
    assert metrics == {
        "window": "24h",
        "total": 14,
        "by_status": {"queued": 1, "running": 1, "waiting": 1, "completed": 9, "failed": 1, "cancelled": 1},
        "success_rate": 0.9,
        "latency_ms": {"p50": 500, "p95": 1000, "p99": 1000},
        "time_to_first_token_ms": {"p50": 5, "p95": 10, "p99": 10},
        "tokens": {"input": 37, "output": 21},
        "cost": 1.25,
        "tool_calls": 5,
    }
    counted = [[bucket[name] for name in bucket if name != "start"] for bucket in series]
    assert counted[23] == [10, 1, 1000, 50]
    assert counted[21] == [1, 0, None, 8]
    assert counted[18] == [3, 0, None, 0]
    assert [bucket for bucket in counted if bucket != [0, 0, None, 0]] == [counted[18], counted[21], counted[23]]


def test_percentiles_are_of_the_window_and_of_each_bucket(api: httpx.Client, database_url: str, session: str) -> None:
    """The window's are among all its runs, whatever bucket these are in."""
    mine = agent(api)
    for number in range(40):
        ago = timedelta(minutes=1 + 5 * (number % 4))
        run(database_url, mine, session, "completed", ago, latency_ms=1000 - number if number % 4 else number)
    metrics = api.get(f"/agents/{mine}/metrics", params={"window": "1h"}).json()
    values = sorted(1000 - number if number % 4 else number for number in range(40))
    assert metrics["latency_ms"] == {"p50": values[19], "p95": values[37], "p99": values[39]}
    assert [bucket["latency_p95_ms"] for bucket in metrics["series"]][-4:] == [997, 998, 999, 36]


@pytest.mark.parametrize("window", BUCKETS)
def test_a_window_has_all_its_buckets(api: httpx.Client, database_url: str, session: str, window: str) -> None:
    count, seconds = BUCKETS[window]
    mine = agent(api)
    whole = timedelta(seconds=count * seconds)
    for ago in (timedelta(0), whole / 2, whole - timedelta(seconds=61), whole + timedelta(seconds=1)):
        run(database_url, mine, session, "completed", ago)
    metrics = api.get(f"/agents/{mine}/metrics", params={"window": window}).json()
    starts = [datetime.fromisoformat(bucket["start"]) for bucket in metrics["series"]]
    assert starts == [starts[0] + timedelta(seconds=n * seconds) for n in range(count)]
    assert timedelta(0) <= starts[0] + whole - datetime.now(UTC) <= timedelta(seconds=60)
    totals = [bucket["total"] for bucket in metrics["series"]]
    assert (metrics["total"], sum(totals), totals[0], totals[-1]) == (3, 3, 1, 1)


class Explaining:
    """A reader that answers how a statement would be answered."""

    def __init__(self, database: Database):
        self._database = database
        self.plan = ""

    async def all(self, statement: Statement[Any], **parameters: Any) -> list[Any]:
        dialect = self._database.dialect
        explained: Statement[Any] = Statement(statement.element, str)
        compiled = statement.compiled(dialect)
        word = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
        explained._compiled[dialect] = msgspec.structs.replace(compiled, sql=f"{word} {compiled.sql}", build=list)
        rows = await self._database.patient.all(explained, **parameters)
        self.plan = "\n".join(row[-1] for row in rows)
        return []

    async def first(self, statement: Statement[Any], **parameters: Any) -> Any:
        return await self.all(statement, **parameters)

    @property
    def reads(self) -> list[str]:
        """How it reads the table of executions, once for each time."""
        lines = [re.sub(r"  \(cost.*", "", line).strip(" ->") for line in self.plan.splitlines()]
        return [line for line in lines if re.match(r"(SEARCH|SCAN) executions|.*Scan.* on executions", line)]


Explain = Callable[[Callable[[Reader], Awaitable[Any]]], Explaining]

MANY = {
    "sqlite": (
        "lower(hex(randomblob(16)))",
        "{id}",
        "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-' || n || ' minutes')",
    ),
    "postgresql": ("gen_random_uuid()", "CAST({id} AS uuid)", "now() - n * interval '1 minute'"),
}


@pytest.fixture(scope="module")
def many(server: Server, database_url: str) -> dict[str, str]:
    """20 000 runs of an agent in one session, in two weeks."""
    with server.client() as api:
        of_agent, of_session = agent(api), api.post("/sessions", json={}).json()["id"]
    identity, given, at = MANY[database_url.partition(":")[0]]
    execute(
        database_url,
        f"""WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)
        INSERT INTO executions (id, owner_id, agent_id, agent_version, session_id, status, metadata, holds_session,
        epoch, queued_at, latency_ms, first_token_ms, input_tokens, output_tokens)
        SELECT {identity}, 'admin', {given.format(id=f"'{of_agent}'")}, 1, {given.format(id=f"'{of_session}'")},
        'completed', '{{}}', false, '0', {at}, n, n, n, n FROM numbers""",
    )
    if database_url.startswith("postgresql"):
        execute(database_url, "VACUUM ANALYZE executions")
    return {"agent_id": of_agent, "session_id": of_session}


@pytest.fixture
def explain(database_url: str) -> Explain:
    async def explained(ask: Callable[[Reader], Awaitable[Any]]) -> Explaining:
        database = create_database(database_url, pool_size=1, statement_timeout=2)
        await database.open()
        reader = Explaining(database)
        await ask(reader)
        await database.close()
        return reader

    return lambda ask: asyncio.run(explained(ask))


def test_metrics_read_their_window_of_an_index_and_nothing_else(
    api: httpx.Client, database_url: str, many: dict[str, str], explain: Explain
) -> None:
    starts = Window.DAY.starts(datetime.now(UTC))
    until = starts[-1] + timedelta(hours=1)

    async def day(reader: Reader) -> None:
        await execution_history.totals(
            reader, "admin", UUID(many["agent_id"]), since=starts[0], until=until, bucket_seconds=3600
        )

    bounds = "(owner_id=? AND agent_id=? AND queued_at>? AND queued_at<?)"
    on_sqlite = f"SEARCH executions USING COVERING INDEX ix_executions_agent_queued_at {bounds}"
    on_postgresql = "Index Only Scan using ix_executions_agent_queued_at on executions"
    assert explain(day).reads == [on_sqlite if database_url.startswith("sqlite") else on_postgresql]
    assert api.get(f"/agents/{many['agent_id']}/metrics", params={"window": "24h"}).json()["total"] in {1439, 1440}


@pytest.mark.parametrize("name", ["agent_id", "session_id", None])
def test_a_page_of_runs_reads_an_index_in_its_order(many: dict[str, str], explain: Explain, name: str | None) -> None:
    wanted = msgspec.convert({name: many[name]} if name else {}, ExecutionFilter)

    async def page(reader: Reader) -> None:
        await execution_history.LIST.page(reader, "admin", wanted, "queued_at", descending=True, bounds=Bounds(21))

    explained = explain(page)
    (read,) = explained.reads
    assert re.search(r"ix_executions_\w+_queued_at", read)
    assert not re.search("Sort|TEMP B-TREE", explained.plan)


@pytest.mark.usefixtures("many")
def test_the_queue_is_counted_among_what_has_not_ended(explain: Explain) -> None:
    (read,) = explain(execution_history.ready).reads
    assert re.search("ix_executions_unfinished|uq_executions_live_session", read)


def measured(server: Server, name: str) -> float:
    (line,) = [text for text in httpx.get(f"{server.url}/metrics").text.splitlines() if text.startswith(f"{name} ")]
    return float(line.split()[1])


def test_prometheus_is_told_how_many_runs_wait_for_a_worker(
    database_url: str, model: ModelServer, tmp_path: Path
) -> None:
    own = f"sqlite:///{tmp_path}/own.db" if database_url.startswith("sqlite") else create_empty(database_url)
    server = Server(own, tmp_path, AI_AGENT_EXECUTION_CONCURRENCY="1", OPENAI_BASE_URL=f"{model.url}/v1")
    with ExitStack() as stack:
        stack.callback(server.stop)
        api = stack.enter_context(server.client())
        model.script(Reply("one two three four", delay=0.5))
        runs = [started(api, model, Reply("one", delay=0.5)) for _ in range(3)]
        time.sleep(0.2)
        assert measured(server, "ai_agent_execution_queue_depth") == 2
        assert 0.1 < measured(server, "ai_agent_execution_queue_age_seconds") < 30
        for path in runs:
            assert api.get(path, params={"wait": 20}).json()["status"] == "completed"
        until = time.monotonic() + 5
        while measured(server, "ai_agent_execution_queue_depth"):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert measured(server, "ai_agent_execution_queue_age_seconds") == 0
