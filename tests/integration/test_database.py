"""The promises of the two databases, by the same tests: what commits stays, what fails leaves nothing."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import sqlalchemy as sa

from ai_agent.domain.agents import AgentStatus, CreateAgent
from ai_agent.domain.errors import ConfigurationError, ServiceUnavailable
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.identity import Tier
from ai_agent.domain.messages import CreateMessage, SearchFilter
from ai_agent.domain.pages import Filter
from ai_agent.domain.search import parse
from ai_agent.domain.sessions import CreateSession, Session, SessionFilter
from ai_agent.security.secret_fields import NO_SECRETS
from ai_agent.services.agents import new_agent
from ai_agent.services.messages import add_message
from ai_agent.services.sessions import new_session
from ai_agent.storage import agents, credential_changes, messages, migrations, postgresql, sessions, tokens
from ai_agent.storage.database import Connection, Database, UniqueViolation
from ai_agent.storage.engine import create_database
from ai_agent.storage.keyset import Bounds, Position
from ai_agent.storage.search import RankedSearch
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import executions, sequences
from ai_agent.storage.tables import messages as message_table
from tests.nodes import Node, end_key

OWNER = "owner"

Scenario = Callable[[Database], Awaitable[None]]


@asynccontextmanager
async def opened(url: str, *, pool_size: int = 4, statement_timeout: float = 2.0) -> AsyncIterator[Database]:
    database = create_database(url, pool_size=pool_size, statement_timeout=statement_timeout)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture(scope="module")
def run(database_url: str) -> Callable[[Scenario], None]:
    """Runs a scenario on a migrated database."""
    asyncio.run(migrations.upgrade(database_url))

    async def play(scenario: Scenario) -> None:
        async with opened(database_url) as database:
            await scenario(database)

    return lambda scenario: asyncio.run(play(scenario))


async def added(connection: Connection, title: str | None = None) -> Session:
    session = new_session(CreateSession(title=title))
    await sessions.insert(connection, OWNER, session)
    return session


def test_a_unit_of_work_is_seen_by_others_when_it_has_committed(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database) -> None:
        async with database.unit_of_work() as rows:
            session = await added(rows, "committed")
            assert await sessions.get(rows, OWNER, session.id) is not None
            assert await sessions.get(database.reader, OWNER, session.id) is None
        stored = await sessions.get(database.reader, OWNER, session.id)
        assert stored == session

    run(scenario)


def test_a_unit_of_work_that_raises_leaves_nothing(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database) -> None:
        with pytest.raises(RuntimeError, match="stop"):
            async with database.unit_of_work() as rows:
                session = await added(rows)
                raise RuntimeError("stop")
        assert await sessions.get(database.reader, OWNER, session.id) is None

    run(scenario)


@pytest.mark.parametrize("turns", range(8))
def test_a_request_cancelled_at_any_moment_leaves_no_transaction_behind(
    run: Callable[[Scenario], None], turns: int
) -> None:
    async def scenario(database: Database) -> None:
        async def work() -> None:
            async with database.unit_of_work() as rows:
                await added(rows)

        async with asyncio.timeout(5):
            for _ in range(10):
                task = asyncio.create_task(work())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                async with database.unit_of_work() as rows:
                    session = await added(rows)
                assert await sessions.get(database.reader, OWNER, session.id) is not None

    run(scenario)


def test_a_taken_name_is_a_unique_violation_and_the_unit_of_work_is_gone(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database) -> None:
        async with database.unit_of_work() as rows:
            await agents.insert(rows, OWNER, new_agent(CreateAgent("taken")), NO_SECRETS)
        with pytest.raises(UniqueViolation):
            async with database.unit_of_work() as rows:
                session = await added(rows)
                await agents.insert(rows, OWNER, new_agent(CreateAgent("taken")), NO_SECRETS)
        assert await sessions.get(database.reader, OWNER, session.id) is None
        async with database.unit_of_work() as rows:
            await agents.insert(rows, "another owner", new_agent(CreateAgent("taken")), NO_SECRETS)

    run(scenario)


def test_many_readers_and_writers_at_once_lose_nothing(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database) -> None:
        async def write(number: int) -> Session:
            async with database.unit_of_work() as rows:
                return await added(rows, f"number {number}")

        written = await asyncio.gather(*(write(number) for number in range(40)))
        read = await asyncio.gather(*(sessions.get(database.reader, OWNER, session.id) for session in written))
        assert list(read) == list(written)

    run(scenario)


def test_pages_see_each_row_once_while_others_write(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database) -> None:
        owner = "pager"
        made = [new_session(CreateSession()) for _ in range(25)]
        for session in made:
            session.created_at = made[0].created_at  # Ties are the hard case.
            async with database.unit_of_work() as rows:
                await sessions.insert(rows, owner, session)
        seen: list[Session] = []
        after = None
        while True:
            bounds = Bounds(4, after=after)
            page = await sessions.LIST.page(
                database.reader, owner, Filter(), "created_at", descending=True, bounds=bounds
            )
            if not page:
                break
            seen += page
            after = Position(page[-1].created_at, page[-1].id)
            async with database.unit_of_work() as rows:
                await sessions.insert(rows, owner, new_session(CreateSession()))
                await sessions.delete_all(rows, owner, [seen[0].id])
        assert {session.id for session in made} == {session.id for session in seen}
        assert len(seen) == len(made)

    run(scenario)


def test_migrations_go_down_and_up_again_with_data_in_them(database_url: str, run: Callable[[Scenario], None]) -> None:
    async def store(database: Database) -> None:
        async with database.unit_of_work() as rows:
            await added(rows)
            grant = tokens.Grant(new_id(), OWNER, to_json([]), Tier.DEFAULT, None)
            family, digest = new_id(), uuid4().hex
            await tokens.add_family(rows, family, grant, now(), now())
            await tokens.add(rows, digest, family, now(), now())
            ticket = tokens.Ticket(OWNER, to_json([]), Tier.DEFAULT, grant.key_id, family, None, now())
            await tokens.add_ticket(rows, digest, ticket)
        key, _ = await Node(database).key()
        before, _ = await credential_changes.since(database.reader, 0)
        await end_key(database, key.id)
        assert (await credential_changes.since(database.reader, before))[1] == {before + 1: f"key:{key.id}"}

    run(store)
    asyncio.run(migrations.check(database_url))
    asyncio.run(migrations.downgrade(database_url, "base"))
    with pytest.raises(ConfigurationError):
        asyncio.run(migrations.check(database_url))
    asyncio.run(migrations.upgrade(database_url))
    asyncio.run(migrations.check(database_url))
    run(store)


def test_a_read_whose_connection_died_is_asked_again(postgres_url: str, empty_postgres: str) -> None:
    async def scenario() -> None:
        await migrations.upgrade(empty_postgres)
        async with opened(empty_postgres, pool_size=1) as database:
            async with database.unit_of_work() as rows:
                session = await added(rows)
            operator = await asyncpg.connect(postgres_url)
            for _ in range(5):
                terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ai-agent'"
                await operator.execute(terminate)
                assert await sessions.get(database.reader, OWNER, session.id) == session
            await operator.close()

    asyncio.run(scenario())


def test_a_statement_that_takes_too_long_is_unavailable_and_frees_its_connection(
    postgres_url: str, empty_postgres: str
) -> None:
    async def scenario() -> None:
        await migrations.upgrade(empty_postgres)
        async with opened(empty_postgres, pool_size=1, statement_timeout=0.3) as database:
            locker = await asyncpg.connect(empty_postgres)
            transaction = locker.transaction()
            await transaction.start()
            await locker.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(ServiceUnavailable):
                await sessions.get(database.reader, OWNER, new_session(CreateSession()).id)
            await transaction.rollback()
            await locker.close()
            async with database.unit_of_work() as rows:
                session = await added(rows)
            assert await sessions.get(database.reader, OWNER, session.id) == session

    asyncio.run(scenario())


def test_who_falls_asleep_in_a_transaction_keeps_nobody_waiting(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "IDLE_SECONDS", 0.3)

    async def scenario() -> None:
        await migrations.upgrade(empty_postgres)
        async with opened(empty_postgres, pool_size=1) as asleep, opened(empty_postgres) as awake:
            with pytest.raises(ServiceUnavailable):
                async with asleep.unit_of_work() as rows:
                    await rows.run(_TAKE)
                    async with awake.unit_of_work() as others:  # Waits until the server has ended the sleeper.
                        await others.run(_TAKE)
                    await rows.run(_TAKE)
            assert await awake.reader.first(_TAKEN) == 1
            async with asleep.unit_of_work() as rows:
                await rows.run(_TAKE)
            assert await asleep.reader.first(_TAKEN) == 2

    asyncio.run(scenario())


_TAKE: Statement[None] = Statement(sa.update(sequences).values(value=sequences.c.value + 1))
_TAKEN = Statement(sa.select(sequences.c.value), int)


def test_a_pool_that_is_used_up_is_unavailable_after_a_second(empty_postgres: str) -> None:
    async def scenario() -> None:
        await migrations.upgrade(empty_postgres)
        async with opened(empty_postgres, pool_size=1) as database, database.unit_of_work():
            with pytest.raises(ServiceUnavailable):
                await sessions.get(database.reader, OWNER, new_session(CreateSession()).id)

    asyncio.run(scenario())


def test_writers_do_not_queue_behind_another_process_for_longer_than_an_answer_may_take(tmp_path: Path) -> None:
    async def scenario() -> None:
        url = f"sqlite:///{tmp_path}/locked.db"
        await migrations.upgrade(url)
        other = sqlite3.connect(tmp_path / "locked.db", isolation_level=None)
        async with opened(url) as database:
            other.execute("BEGIN IMMEDIATE")

            async def write() -> float:
                started = time.monotonic()
                with pytest.raises(ServiceUnavailable):
                    async with database.unit_of_work() as rows:
                        await added(rows)
                return time.monotonic() - started

            assert max(await asyncio.gather(*(write() for _ in range(8)))) < 2.5
            other.execute("ROLLBACK")
            async with database.unit_of_work() as rows:
                await added(rows)
        other.close()

    asyncio.run(scenario())


SEARCH_TEXTS = Statement(sa.select(message_table.c.search_text).distinct(), str)
ROWS_BEFORE_SEARCH = {
    "Ein Straßenfest": "ein strassenfest",
    "НОЧЬ": "ночь",
    "東京都": "\u115f東\u115f京\u115f都\u115f",
    "": "",
}


def test_messages_from_before_the_search_can_be_searched(database_url: str, run: Callable[[Scenario], None]) -> None:
    """Upgrades a database that holds more rows than one batch, and downgrades it again."""

    async def store(database: Database) -> None:
        async with database.unit_of_work() as rows:
            session = await added(rows, "Größe")
            for _ in range(70):
                for content in ROWS_BEFORE_SEARCH:
                    await add_message(rows, OWNER, session.id, CreateMessage(content))

    async def look(database: Database) -> None:
        query = SearchFilter(search=parse("STRASSE or 京"))
        hits = RankedSearch(messages.LIST, database.patient)
        assert await hits.total(database.reader, OWNER, query) == 140
        bounds = Bounds(200)
        found = await hits.page(database.reader, OWNER, query, "rank", descending=True, bounds=bounds)
        assert len({hit.id for hit in found}) == 140
        assert await sessions.LIST.total(database.reader, OWNER, SessionFilter(search="GRÖSSE")) == 1
        stored = await database.reader.all(SEARCH_TEXTS)
        assert sorted(stored) == sorted(ROWS_BEFORE_SEARCH.values())

    run(store)
    asyncio.run(migrations.downgrade(database_url, "0002"))
    asyncio.run(migrations.upgrade(database_url))
    asyncio.run(migrations.check(database_url))
    run(look)
    asyncio.run(migrations.downgrade(database_url, "0002"))
    asyncio.run(migrations.upgrade(database_url))
    run(look)


def test_the_index_of_the_search_on_sqlite_follows_every_change_and_survives_a_vacuum(tmp_path: Path) -> None:
    async def scenario() -> None:
        url = f"sqlite:///{tmp_path}/a.db"
        await migrations.upgrade(url)
        async with opened(url) as database:
            made: list[Session] = []
            for number in range(4):
                async with database.unit_of_work() as rows:
                    made.append(await added(rows))
                    for content in ("keep", f"number {number}"):
                        await add_message(rows, OWNER, made[-1].id, CreateMessage(content))
            async with database.unit_of_work() as rows:
                await sessions.delete_all(rows, OWNER, [made[0].id])
                await sessions.delete_all(rows, OWNER, [made[2].id])
        with sqlite3.connect(tmp_path / "a.db", isolation_level=None) as connection:
            connection.execute("VACUUM")
            connection.execute("INSERT INTO message_search (message_search) VALUES ('integrity-check')")
            assert connection.execute("SELECT count(*) FROM message_search_rows").fetchone() == (4,)
            found = "SELECT count(*) FROM message_search WHERE message_search MATCH 'num'"
            assert connection.execute(found).fetchone() == (2,)
        connection.close()
        async with opened(url) as database:
            search = RankedSearch(messages.LIST, database.patient)
            for text, hits in {"keep": 2, "number": 2, "number 3": 1, '"number 2"': 0, '"number 0"': 0}.items():
                assert await search.total(database.reader, OWNER, SearchFilter(search=parse(text))) == hits

    asyncio.run(scenario())


def test_an_extension_that_may_not_be_created_is_named(empty_postgres: str, postgres_url: str) -> None:
    async def scenario() -> None:
        operator = await asyncpg.connect(empty_postgres)
        await operator.execute("CREATE ROLE limited LOGIN; GRANT ALL ON SCHEMA public TO limited")
        url = empty_postgres.replace("postgres@", "limited@")
        with pytest.raises(ConfigurationError, match="pg_trgm") as refused:
            await migrations.upgrade(url)
        assert "CREATE EXTENSION pg_trgm" in refused.value.hint
        await operator.execute("CREATE EXTENSION pg_trgm")
        await migrations.upgrade(url)
        await migrations.check(url)
        await operator.close()

    asyncio.run(scenario())


def test_an_upgrade_that_was_interrupted_goes_on(empty_postgres: str) -> None:
    async def scenario() -> None:
        await migrations.upgrade(empty_postgres, "0002")
        operator = await asyncpg.connect(empty_postgres)
        await operator.execute("ALTER TABLE messages ADD COLUMN search_text text NOT NULL DEFAULT ''")
        await operator.execute("CREATE INDEX ix_messages_owner_id ON messages (owner_id)")
        await operator.close()
        await migrations.upgrade(empty_postgres)
        await migrations.check(empty_postgres)

    asyncio.run(scenario())


def test_a_search_may_take_longer_than_other_statements(empty_postgres: str) -> None:
    async def scenario() -> None:
        await migrations.upgrade(empty_postgres)
        sleep = Statement(sa.select(sa.func.pg_sleep(sa.bindparam("seconds", type_=sa.Float)).cast(sa.Text)), str)
        async with opened(empty_postgres, pool_size=1, statement_timeout=0.3) as database:
            with pytest.raises(ServiceUnavailable):
                await database.reader.first(sleep, seconds=0.6)
            assert await database.patient.first(sleep, seconds=0.6) == ""
            started = time.monotonic()
            with pytest.raises(ServiceUnavailable):
                await database.patient.first(sleep, seconds=20.0)
            assert 4.5 < time.monotonic() - started < 6
            with pytest.raises(ServiceUnavailable):
                await database.reader.first(sleep, seconds=0.6)

    asyncio.run(scenario())


def test_on_sqlite_too_a_statement_has_its_time_and_keeps_nobody_from_reading(tmp_path: Path) -> None:
    numbers = sa.select(sa.literal_column("1").label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(
        sa.select(numbers.c.n + sa.literal_column("1")).where(numbers.c.n < sa.bindparam("last"))
    )
    count: Statement[Any] = Statement(sa.select(sa.func.count()).select_from(numbers), int)

    async def scenario() -> None:
        async with opened(f"sqlite:///{tmp_path}/a.db", statement_timeout=0.3) as database:
            slow = [asyncio.create_task(database.reader.first(count, last=10**9)) for _ in range(4)]
            patient = [asyncio.create_task(database.patient.first(count, last=10**9)) for _ in range(2)]
            await asyncio.sleep(0.05)
            patient[0].cancel()
            started = time.monotonic()
            results = await asyncio.gather(*slow, return_exceptions=True)
            assert [type(result) for result in results] == [ServiceUnavailable] * 4
            assert time.monotonic() - started < 1
            assert await database.reader.first(count, last=10) == 10
            # The one that was cancelled is free again, though the other one still works.
            assert await database.patient.first(count, last=10) == 10
            patient[1].cancel()

    asyncio.run(scenario())


def test_of_two_runs_that_end_together_the_last_one_frees_the_agent(empty_postgres: str) -> None:
    """The second one looks for live runs when the first has committed, not when it began to wait."""

    async def scenario() -> None:
        await migrations.upgrade(empty_postgres)
        async with opened(empty_postgres) as database:
            agent = new_agent(CreateAgent(name="busy"))
            ids = [new_id(), new_id()]
            async with database.unit_of_work() as rows:
                await agents.insert(rows, OWNER, agent, NO_SECRETS)
                for execution_id in ids:
                    session = await added(rows)
                    await rows.run(_RUNNING, execution_id=execution_id, agent=agent.id, session=session.id, at=now())
            waiting = asyncio.Event()

            async def end(execution_id: UUID, *, first: bool) -> None:
                async with database.unit_of_work() as rows:
                    await rows.run(_ENDED, execution_id=execution_id)
                    if not first:
                        waiting.set()
                    await agents.set_status(rows, agent.id, AgentStatus.COMPLETED)
                    if first:
                        await waiting.wait()
                        await asyncio.sleep(0.2)

            await asyncio.gather(end(ids[0], first=True), end(ids[1], first=False))
            stored = await agents.get(database.reader, OWNER, agent.id)
            assert stored is not None
            assert stored.status is AgentStatus.COMPLETED

    asyncio.run(scenario())


_RUNNING: Statement[None] = Statement(
    sa.insert(executions).values(
        id=sa.bindparam("execution_id"),
        owner_id=OWNER,
        agent_id=sa.bindparam("agent"),
        session_id=sa.bindparam("session"),
        agent_version=1,
        status="running",
        metadata=sa.cast(sa.literal_column("'{}'"), sa.JSON),
        holds_session=True,
        epoch="00000000",
        queued_at=sa.bindparam("at"),
    )
)
_ENDED: Statement[None] = Statement(
    sa.update(executions).where(executions.c.id == sa.bindparam("execution_id")).values(status="completed")
)
