"""How long an agent's metrics and a page of its runs take: 200 000 runs in 30 days, among 800 000 of other agents.

    uv run --group bench python -m benchmarks.history [--runs N] [--rounds N] [--database postgresql|sqlite]

Time is from the call of the service to its answer, one after the other.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

from ai_agent.domain.execution_history import ExecutionFilter, Window
from ai_agent.domain.executions import ExecutionStatus
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.realtime.memory_log import MemoryLog
from ai_agent.services.execution_history import ExecutionHistory
from ai_agent.services.execution_streams import ExecutionStreams
from ai_agent.services.paging import Pager
from ai_agent.storage import execution_history, migrations
from ai_agent.storage.database import Database
from ai_agent.storage.engine import create_database
from ai_agent.storage.keyset import CursorCodec
from tests.servers import PostgresServer
from tests.sql import execute

OWNER = Principal("admin", frozenset())
AGENT = UUID(int=1)
OTHERS = 4
"""Runs of other agents of the same owner, for one of this agent."""

_SPELLINGS = {
    "sqlite": {
        "id": "substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7' || substr(h, 13, 3) || '-8' || substr(h, 16, 3) "
        "|| '-' || substr(h, 19, 12)",
        "numbers": "(SELECT n, lower(hex(randomblob(16))) AS h, abs(random() / 9223372036854775808.0) AS r "
        "FROM numbers)",
        "at": "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-' || (n * 2592000.0 / {count}) || ' seconds')",
        "given": "'{}'",
        "analyze": "ANALYZE",
    },
    "postgresql": {
        "id": "gen_random_uuid()",
        "numbers": "(SELECT n, random() AS r FROM numbers) AS numbered",
        "at": "now() - n * 2592000.0 / {count} * interval '1 second'",
        "given": "uuid '{}'",
        "analyze": "VACUUM ANALYZE",
    },
}


def fill(url: str, runs: int) -> None:
    """One run in five is of the agent; one in twenty has failed, and one in a hundred was cancelled."""
    kind = url.partition(":")[0]
    spelling = _SPELLINGS[kind]
    ids = {number: spelling["given"].format(UUID(int=number)) for number in range(1, 2 + OTHERS)}
    count = runs * (1 + OTHERS)
    at = spelling["at"].format(count=count)
    execute(
        url,
        f"""INSERT INTO agents (id, owner_id, name, model_config, tools, metadata, created_at, updated_at)
        SELECT {ids[1]}, 'admin', 'a', '{{}}', '[]', '{{}}', {at}, {at} FROM (SELECT 1 AS n) AS one""",
    )
    execute(
        url,
        f"""INSERT INTO sessions (id, owner_id, metadata, last_activity, created_at, updated_at)
        SELECT {ids[1]}, 'admin', '{{}}', {at}, {at}, {at} FROM (SELECT 1 AS n) AS one""",
    )
    agent = " ".join(f"WHEN {number - 1} THEN {identity}" for number, identity in ids.items())
    execute(
        url,
        f"""WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
        INSERT INTO executions (id, owner_id, agent_id, agent_version, session_id, status, metadata, holds_session,
        epoch, queued_at, finished_at, latency_ms, first_token_ms, input_tokens, output_tokens, cost, tool_call_count)
        SELECT {spelling["id"]}, 'admin', CASE n % {1 + OTHERS} {agent} END, 1, {ids[1]},
        CASE WHEN r < 0.01 THEN 'cancelled' WHEN r < 0.06 THEN 'failed' ELSE 'completed' END, '{{}}', false,
        '0', {at}, {at}, CAST(60000 * r * r AS INTEGER), CAST(2000 * r AS INTEGER), 500, 100, 0.001, 2
        FROM {spelling["numbers"]}""",
    )
    execute(url, spelling["analyze"])


async def timed(ask: Callable[[], Awaitable[object]], rounds: int) -> list[float]:
    """Milliseconds, without the first call."""
    await ask()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


async def measure(database: Database, rounds: int) -> None:
    history = ExecutionHistory(
        database, Pager(database, CursorCodec("x" * 32)), ExecutionStreams(database, MemoryLog())
    )
    page = PageRequest(20, None, 0, False, "queued_at", True)
    failed = ExecutionFilter(status=ExecutionStatus.FAILED)
    none = ExecutionFilter(status=ExecutionStatus.RUNNING)
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        **{f"metrics {window}": lambda window=window: history.metrics(OWNER, AGENT, window) for window in Window},  # type: ignore[misc]  # bound as a default
        "a page of the agent": lambda: history.list_of_agent(OWNER, AGENT, ExecutionFilter(agent_id=AGENT), page),
        "a page of all": lambda: history.list(OWNER, ExecutionFilter(), page),
        "a page of the failed": lambda: history.list(OWNER, failed, page),
        "a status that none has": lambda: history.list(OWNER, none, page),
        "the queue": lambda: execution_history.ready(database.reader),
    }
    for name, ask in asked.items():
        taken = await timed(ask, rounds)
        print(f"| {database.dialect} | {name} | {median(taken):.2f} | {quantiles(taken, n=100)[98]:.2f} |", flush=True)


async def run(url: str, runs: int, rounds: int) -> None:
    await migrations.upgrade(url)
    await asyncio.to_thread(fill, url, runs)
    database = create_database(url, pool_size=2, statement_timeout=2)
    await database.open()
    await measure(database, rounds)
    await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], action="append")
    options = parser.parse_args()
    print("| database | what | p50 ms | p99 ms |\n|---|---|---|---|", flush=True)
    for kind in options.database or ["sqlite", "postgresql"]:
        with ExitStack() as stack:
            url = f"sqlite:///{Path(stack.enter_context(tempfile.TemporaryDirectory()), 'history.db')}"
            if kind == "postgresql":
                server = PostgresServer()
                stack.callback(server.stop)
                url = server.url
            asyncio.run(run(url, options.runs, options.rounds))


if __name__ == "__main__":
    main()
