"""What one query costs this process, by each way to ask it: why the project has a way of its own.

    uv run --group bench python -m benchmarks.queries [--rounds N] [--queries N]

CPU time of user and system, threads included, on one event loop, one query after the other; what the database server
uses is not counted. All ways ask for the same rows through a pool of one connection.
"""

import argparse
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import sqlalchemy as sa
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import registry

from ai_agent.domain.sessions import Session, SessionStatus
from ai_agent.storage.engine import create_database
from ai_agent.storage.migrations import engine_url
from ai_agent.storage.statements import Statement, to_sqlite
from ai_agent.storage.tables import sessions
from benchmarks import report, seed
from benchmarks.processes import OTHER_CORES, SERVER_CORES, cleaned_up, on_cores
from tests.servers import PostgresServer

OURS = "ai-agent"
QUERIES = ("get", "list")

Parameters = dict[str, Any]
Ask = Callable[[str, Parameters], Awaitable[list[Any]]]
Way = Callable[[str, AsyncExitStack], Awaitable[Ask]]

_OWNED = sessions.c.owner_id == sa.bindparam("owner")
_POSITION = sa.tuple_(sessions.c.last_activity, sessions.c.id)
_LAST = sa.tuple_(
    sa.bindparam("last_activity", type_=sessions.c.last_activity.type),
    sa.bindparam("last_id", type_=sessions.c.id.type),
)


def _one(select: sa.Select[Any]) -> sa.Select[Any]:
    return select.where(_OWNED, sessions.c.id == sa.bindparam("session_id"))


def _page(select: sa.Select[Any]) -> sa.Select[Any]:
    newest_first = select.order_by(sessions.c.last_activity.desc(), sessions.c.id.desc())
    return newest_first.where(_OWNED, _POSITION < _LAST).limit(20)


class Record:
    """A session for the ORM."""

    id: UUID


registry().map_imperatively(Record, sessions)

_COLUMNS = [sessions.c[name] for name in Session.__struct_fields__]
STATEMENTS = {
    "get": Statement(_one(sa.select(*_COLUMNS)), Session),
    "list": Statement(_page(sa.select(*_COLUMNS)), Session),
}
ORM_STATEMENTS = {"get": _one(sa.select(Record)), "list": _page(sa.select(Record))}

_FROM_MINE = f"SELECT {', '.join(Session.__struct_fields__)} FROM sessions WHERE owner_id = $1 AND "
BY_HAND = {
    "get": _FROM_MINE + "id = $2",
    "list": _FROM_MINE + "(last_activity, id) < ($2, $3) ORDER BY last_activity DESC, id DESC LIMIT 20",
}


def parameters_of(query: str, session: seed.SeededSession) -> Parameters:
    """In the order in which the statement by hand has them."""
    if query == "get":
        return {"owner": session.user_id, "session_id": session.id}
    last = seed.newest_first(session.user_id)[seed.MIDDLE - 1]
    return {"owner": session.user_id, "last_activity": last.last_activity, "last_id": last.id}


async def ours(url: str, stack: AsyncExitStack) -> Ask:
    """The project's executor. Only this touches its Database."""
    database = create_database(url, pool_size=1, statement_timeout=10)
    await database.open()
    stack.push_async_callback(database.close)

    async def ask(query: str, parameters: Parameters) -> list[Any]:
        if query == "get":
            return [await database.reader.first(STATEMENTS[query], **parameters)]
        return await database.reader.all(STATEMENTS[query], **parameters)

    return ask


class _UnresetConnection(asyncpg.Connection):
    def get_reset_query(self) -> str:
        return ""


async def asyncpg_by_hand(url: str, stack: AsyncExitStack) -> Ask:
    pool = await asyncpg.create_pool(url, min_size=1, max_size=1, connection_class=_UnresetConnection)
    stack.push_async_callback(pool.close)

    async def ask(query: str, parameters: Parameters) -> list[Any]:
        rows = await pool.fetch(BY_HAND[query], *parameters.values())
        return [_session(row) for row in rows]

    return ask


def _session(row: Any) -> Session:
    identity, user, title, metadata, count, last_activity, status, created_at, updated_at = row
    raw, state = msgspec.Raw(metadata.encode()), SessionStatus(status)
    return Session(identity, user, title, raw, count, last_activity, state, created_at, updated_at)


def _engine(url: str, stack: AsyncExitStack, *, lean: bool) -> AsyncEngine:
    """Lean, without a transaction around a read, a reset of the connection, and with JSON undecoded."""
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}
    if lean:
        options |= {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}
    if lean and not url.startswith("sqlite"):
        options |= {"json_deserializer": str}
    engine = create_async_engine(engine_url(url), **options)
    stack.push_async_callback(engine.dispose)
    return engine


def _driver_values(url: str) -> Callable[[Parameters], Parameters]:
    if url.startswith("sqlite"):
        return lambda parameters: {name: to_sqlite(value) for name, value in parameters.items()}
    return lambda parameters: parameters


async def sqlalchemy_core(url: str, stack: AsyncExitStack) -> Ask:
    """The project's own statements and Structs, executed by SQLAlchemy."""
    engine, values = _engine(url, stack, lean=True), _driver_values(url)
    build = {query: STATEMENTS[query].compiled(engine.dialect.name).build for query in QUERIES}

    async def ask(query: str, parameters: Parameters) -> list[Any]:
        async with engine.connect() as connection:
            rows = await connection.execute(STATEMENTS[query].element, values(parameters))
        return [build[query](row) for row in rows]

    return ask


async def sqlalchemy_orm(url: str, stack: AsyncExitStack, *, lean: bool) -> Ask:
    """Answers the ORM's objects."""
    engine, values = _engine(url, stack, lean=lean), _driver_values(url)

    async def ask(query: str, parameters: Parameters) -> list[Any]:
        async with AsyncSession(engine) as session:
            rows = await session.execute(ORM_STATEMENTS[query], values(parameters))
            return list(rows.scalars())

    return ask


_EITHER: dict[str, Way] = {
    OURS: ours,
    f"{OURS} again": ours,
    "SQLAlchemy Core, lean": sqlalchemy_core,
    "SQLAlchemy ORM, lean": partial(sqlalchemy_orm, lean=True),
    "SQLAlchemy ORM": partial(sqlalchemy_orm, lean=False),
}
WAYS: dict[str, dict[str, Way]] = {"PostgreSQL": {"asyncpg by hand": asyncpg_by_hand, **_EITHER}, "SQLite": _EITHER}


class Measurement(msgspec.Struct, frozen=True):
    database: str
    query: str
    way: str
    round: int
    cpu_us: float


async def check(query: str, ask: Ask) -> None:
    """Raises RuntimeError when a way answers other rows."""
    session = seed.sessions()[77]
    mine = seed.newest_first(session.user_id)
    wanted = [session] if query == "get" else mine[seed.MIDDLE : seed.MIDDLE + 20]
    answered = [str(row.id) for row in await ask(query, parameters_of(query, session))]
    if answered != [str(one.id) for one in wanted]:
        raise RuntimeError(f"{ask.__qualname__} answers other rows to {query}")


async def cost(query: str, ask: Ask, queries: int) -> float:
    """CPU time of a query in microseconds."""
    parameters = [parameters_of(query, session) for session in random.sample(seed.sessions(), queries)]
    before = time.process_time()
    for one in parameters:
        await ask(query, one)
    return (time.process_time() - before) / queries * 1e6


async def measure(database: str, url: str, rounds: int, queries: int) -> list[Measurement]:
    measured = []
    async with AsyncExitStack() as stack:
        ways = {name: await way(url, stack) for name, way in WAYS[database].items()}
        for query in QUERIES:
            for ask in ways.values():
                await check(query, ask)
                await cost(query, ask, queries)
            for number in range(rounds):
                for name in random.sample(list(ways), len(ways)):
                    used = await cost(query, ways[name], queries)
                    measured += [Measurement(database, query, name, number, used)]
    return measured


async def measure_both(server_url: str, folder: Path, options: argparse.Namespace) -> list[Measurement]:
    urls = {
        "PostgreSQL": await seed.create_postgres_database(server_url, "queries"),
        "SQLite": f"sqlite:///{folder / 'queries.db'}",
    }
    measured = []
    for database, url in urls.items():
        await seed.seed_ours(url, folder)
        measured += await measure(database, url, options.rounds, options.queries)
    return measured


def table(measured: list[Measurement]) -> str:
    lines = [("database", "query", "way", "CPU µs", f"x {OURS} (min-max)")]
    for database, ways in WAYS.items():
        for query in QUERIES:
            costs = {
                way: [one.cpu_us for one in measured if (one.database, one.query, one.way) == (database, query, way)]
                for way in ways
            }
            for way, found in costs.items():
                ratios = [cost / own for cost, own in zip(found, costs[OURS], strict=True)]
                spread = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
                lines.append((database, query, way, f"{median(found):.0f}", spread))
    return report.aligned(lines, names=3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--queries", type=int, default=500, help="of each way in a round")
    options = parser.parse_args()
    with cleaned_up() as (stack, folder):
        with on_cores(OTHER_CORES):
            postgres = PostgresServer()
        stack.callback(postgres.stop)
        with on_cores(SERVER_CORES):
            measured = uvloop.run(measure_both(postgres.url, folder, options))
    print(table(measured))
    print(f"\nAll measurements: {report.save('queries', options=vars(options), measurements=measured)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
