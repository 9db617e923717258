"""The schema's way up and down, with rows in every table, beside others who use the database, and under older code."""

import asyncio
import io
import itertools
import subprocess
import sys
import tarfile
import tomllib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ai_agent.domain.errors import ConfigurationError
from ai_agent.storage import migrations
from tests.conftest import KEY, FreshServer, prepare
from tests.integration.test_commands import ai_agent, assert_one_line_and_a_hint
from tests.model_server import ModelServer
from tests.runs import make_agent

REPOSITORY = Path(__file__).parents[2]
REVISIONS = [script.revision for script in ScriptDirectory(str(migrations.scripts())).walk_revisions()][::-1]
SEARCH = "message_search"
"""SQLite's index of the search: tables that no code writes to."""
REPLACED = {"0010": {"outbox"}}
"""Tables that a revision makes anew, because nothing was ever written to them."""

EXCUSED = {
    "0005": ["changing-column-type"],  # From before the first release, when tables were small.
    "0010": ["ban-drop-table", "prefer-identity"],  # Of a table that nothing was ever written to.
}
"""What squawk says of one revision only; what holds for all is in its configuration."""

Rows = dict[str, list[dict[str, Any]]]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncConnection]:
    engine = migrations.migration_engine(url)
    async with engine.begin() as connection:
        yield connection
    await engine.dispose()


def _tables(connection: sa.Connection) -> list[sa.Table]:
    metadata = sa.MetaData()
    names = [name for name in sa.inspect(connection).get_table_names() if not name.startswith((SEARCH, "alembic_"))]
    metadata.reflect(connection, only=names)
    return metadata.sorted_tables


def _value(column: "sa.Column[Any]", made: dict[str, Any]) -> Any:
    """One that the column takes, and nobody else has."""
    if column.foreign_keys:
        (key,) = column.foreign_keys
        return made[key.target_fullname]
    kind, length = column.type, getattr(column.type, "length", None)
    match kind:
        case sa.Uuid():
            return uuid.uuid4()
        case sa.DateTime():
            return datetime.now(UTC)
        case sa.JSON():
            return {"a": [1, None, "ü"]}
        case sa.Boolean():
            return True
        case sa.Integer():
            return next(_NUMBERS) % 30000
        case sa.Float() | sa.Numeric():
            return 0.5
        case sa.LargeBinary():
            return b"bytes"
        case sa.String():
            texts = {36: str(uuid.uuid4()), 27: "2026-01-02T03:04:05.000000Z", None: '{"a":[1,null,"ü"]}'}
            return texts.get(length) or uuid.uuid4().hex[:length]
    raise AssertionError(f"{column}: {kind!r}")


_NUMBERS = itertools.count(1000)


def _add_rows(connection: sa.Connection) -> None:
    """One to each table, with a value in every column."""
    made: dict[str, Any] = {}
    for table in _tables(connection):
        row = {
            column.name: _value(column, made)
            for column in table.columns
            # A message that is its own parent would be none.
            if not any(key.column.table is table for key in column.foreign_keys)
        }
        connection.execute(sa.insert(table).values(row))
        made |= {f"{table.name}.{name}": value for name, value in row.items()}


def _rows(connection: sa.Connection) -> Rows:
    found: Rows = {}
    for table in _tables(connection):
        order = sa.select(table).order_by(*table.primary_key.columns)
        found[table.name] = [dict(row) for row in connection.execute(order).mappings()]
    return found


def _kept(before: Rows, after: Rows, but: set[str]) -> None:
    """What is in both schemas is as it was."""
    for table in before.keys() & after.keys() - but:
        assert len(before[table]) == len(after[table]), table
        for old, new in zip(before[table], after[table], strict=True):
            common = old.keys() & new.keys()
            assert {name: old[name] for name in common} == {name: new[name] for name in common}, table


def test_every_revision_goes_up_and_down_with_rows_in_every_table(database_url: str) -> None:
    async def scenario() -> None:
        for before, revision in itertools.pairwise(["base", *REVISIONS]):
            replaced = REPLACED.get(revision, set())
            async with connected(database_url) as connection:
                rows = await connection.run_sync(_rows)
            await migrations.upgrade(database_url, revision)
            async with connected(database_url) as connection:
                _kept(rows, await connection.run_sync(_rows), replaced)
                await connection.run_sync(_add_rows)
            async with connected(database_url) as connection:  # Some triggers wait for the end of a transaction.
                upgraded = await connection.run_sync(_rows)
                assert all(upgraded.values()), "A table has no row"
            await migrations.downgrade(database_url, before)
            async with connected(database_url) as connection:
                downgraded = await connection.run_sync(_rows)
                assert set(downgraded) == set(rows)
                _kept(upgraded, downgraded, replaced)
            await migrations.upgrade(database_url, revision)
            async with connected(database_url) as connection:
                again = await connection.run_sync(_rows)
                _kept(downgraded, again, replaced)
                await connection.run_sync(_add_rows)
        await migrations.check(database_url)
        await migrations.downgrade(database_url, "base")
        async with connected(database_url) as connection:
            assert await connection.run_sync(_rows) == {}

    asyncio.run(scenario())


CONCURRENT = [
    ("0002", "ix_messages_owner_id", "messages (content)"),
    ("0009", "ix_executions_owner_queued_at", "executions (fence)"),
    ("0011", "ix_tools_mcp_server_id", "tools (name)"),
]


@pytest.mark.parametrize(("before", "name", "definition"), CONCURRENT)
def test_an_index_that_was_left_behind_invalid_is_built_anew(
    empty_postgres: str, before: str, name: str, definition: str
) -> None:
    async def scenario() -> None:
        await migrations.upgrade(empty_postgres, before)
        operator = await asyncpg.connect(empty_postgres)
        await operator.execute(f"CREATE INDEX {name} ON {definition}")
        await operator.execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass")
        await migrations.upgrade(empty_postgres)
        assert await operator.fetch("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid") == []
        await operator.close()
        await migrations.check(empty_postgres)

    asyncio.run(scenario())


@asynccontextmanager
async def reading(url: str, table: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who has read a table and thinks about it."""
    reader = await asyncpg.connect(url)
    try:
        async with reader.transaction(isolation="repeatable_read"):
            await reader.fetch(f"SELECT count(*) FROM {table}")
            yield reader
    finally:
        await reader.close()


def test_a_migration_gives_up_a_lock_that_it_does_not_get_and_leaves_nothing_half_done(
    empty_postgres: str, tmp_path: Path
) -> None:
    settings = {"AI_AGENT_DATABASE_URL": empty_postgres}

    async def scenario() -> None:
        await migrations.upgrade(empty_postgres, "0009")
        async with connected(empty_postgres) as connection:
            before = await connection.run_sync(_schema)
        async with reading(empty_postgres, "executions"):
            run = await asyncio.to_thread(ai_agent, tmp_path, "db", "upgrade", **settings)
        assert_one_line_and_a_hint(run, "holds a table for longer than 2 s", "pg_stat_activity")
        async with connected(empty_postgres) as connection:
            assert await connection.run_sync(_schema) == before
        assert ai_agent(tmp_path, "db", "current", **settings).stdout.strip() == "0009"
        assert ai_agent(tmp_path, "db", "upgrade", **settings).stdout.strip() == migrations.HEAD

    asyncio.run(scenario())


def test_an_upgrade_of_sqlite_that_fails_in_the_middle_has_done_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/test.db"

    async def scenario() -> None:
        await migrations.upgrade(url, "0009")
        async with connected(url) as connection:
            await connection.execute(sa.text("CREATE TABLE mcp_servers (id INTEGER)"))
            before = await connection.run_sync(_schema)
        with pytest.raises(ConfigurationError, match="mcp_servers already exists"):
            await migrations.upgrade(url)
        async with connected(url) as connection:
            assert await connection.run_sync(_schema) == before
            assert await connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0009"
            await connection.execute(sa.text("DROP TABLE mcp_servers"))
        await migrations.upgrade(url)
        await migrations.check(url)

    asyncio.run(scenario())


def _schema(connection: sa.Connection) -> dict[str, list[str]]:
    inspector = sa.inspect(connection)
    return {name: [column["name"] for column in inspector.get_columns(name)] for name in inspector.get_table_names()}


def test_an_index_waits_for_those_who_read_and_keeps_nobody_from_writing(empty_postgres: str) -> None:
    async def scenario() -> None:
        await migrations.upgrade(empty_postgres, "0011")
        writer = await asyncpg.connect(empty_postgres)
        async with reading(empty_postgres, "tools"):
            upgrade = asyncio.create_task(migrations.upgrade(empty_postgres))
            waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $1 AND wait_event_type = 'Lock'"
            async with asyncio.timeout(30):
                while await writer.fetchval(waits, "CREATE INDEX CONCURRENTLY%") == 0:
                    await asyncio.sleep(0.05)
            await writer.execute("SET lock_timeout = '1s'; DELETE FROM tools")
            await asyncio.sleep(2.5)  # Longer than it waits for any other lock.
            assert not upgrade.done()
        await upgrade
        await writer.close()
        await migrations.check(empty_postgres)

    asyncio.run(scenario())


UPGRADE = """
import asyncio, sys
from ai_agent.storage import migrations
asyncio.run(migrations.upgrade(sys.argv[1]))
"""


def test_of_several_upgrades_at_the_same_time_one_does_the_work(database_url: str) -> None:
    asyncio.run(migrations.downgrade(database_url, "base"))  # What the test before may have left.
    command = [sys.executable, "-c", UPGRADE, database_url]
    upgrades = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [upgrade.communicate(timeout=90)[1] for upgrade in upgrades]
    assert ([upgrade.returncode for upgrade in upgrades], ended) == ([0] * 3, [""] * 3)
    asyncio.run(migrations.check(database_url))


@pytest.mark.parametrize("command", [["upgrade"], ["downgrade", "0001"], ["check"]])
def test_a_schema_that_is_newer_than_the_code_says_so(tmp_path: Path, empty_postgres: str, command: list[str]) -> None:
    async def age() -> None:
        await migrations.upgrade(empty_postgres)
        async with connected(empty_postgres) as connection:
            await connection.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))

    asyncio.run(age())
    run = ai_agent(tmp_path, "db", *command, AI_AGENT_DATABASE_URL=empty_postgres)
    assert_one_line_and_a_hint(run, "0999", migrations.HEAD, "newer")
    assert ai_agent(tmp_path, "db", "current", AI_AGENT_DATABASE_URL=empty_postgres).stdout.strip() == "0999"


def test_a_revision_that_is_none_says_which_there_are(tmp_path: Path) -> None:
    run = ai_agent(tmp_path, "db", "downgrade", "yesterday")
    assert_one_line_and_a_hint(run, "yesterday", f"0001 to {migrations.HEAD}", "base")


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that migrations execute."""
    statements: list[str] = []
    make: Callable[[str], AsyncEngine] = migrations.migration_engine

    def listening(url: str) -> AsyncEngine:
        engine = make(url)
        sa.event.listen(engine.sync_engine, "before_cursor_execute", lambda *call: statements.append(str(call[2])))
        return engine

    monkeypatch.setattr(migrations, "migration_engine", listening)
    return statements


def test_squawk_finds_nothing_in_what_migrations_execute(
    empty_postgres: str, executed: list[str], tmp_path: Path
) -> None:
    changes = ("ALTER", "CREATE", "DROP", "SET")
    # Squawk reads a file: it has to see what is one transaction, and what is outside.
    outside, inside = "SET lock_timeout = 0", "SET lock_timeout = '2s'"
    for revision in REVISIONS:
        executed.clear()
        asyncio.run(migrations.upgrade(empty_postgres, revision))
        changed = [text.strip() for text in executed if text.strip().startswith(changes) and "alembic_" not in text]
        assert changed[0] == inside
        assert len(changed) > 1
        script = ";\n\n".join(changed).replace(outside, f"COMMIT;\n\n{outside}").replace(inside, f"{inside};\n\nBEGIN")
        (tmp_path / f"{revision}.sql").write_text(f"{script};\n\nCOMMIT;\n")
    squawk = [str(Path(sys.executable).parent / "squawk"), "--pg-version", "14.0", "--reporter", "gcc"]
    always = tomllib.loads((migrations.scripts() / "squawk.toml").read_text())["excluded_rules"]
    excused = {file: [f"--exclude={','.join(always + EXCUSED.get(file.stem, []))}"] for file in tmp_path.glob("*.sql")}
    runs = [
        subprocess.run([*squawk, *rules, file], capture_output=True, text=True, check=False)
        for file, rules in sorted(excused.items())
    ]
    assert [run.stdout + run.stderr for run in runs if run.returncode] == []


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the commit before the newest migration."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True).stdout

    if not (REPOSITORY / ".git").exists() or git("rev-parse", "--is-shallow-repository").strip() == b"true":
        pytest.skip("The history is not here")
    newest = next((REPOSITORY / "migrations" / "versions").glob(f"{migrations.HEAD}_*.py"))
    # On the main line, which may have got it by a merge.
    line = ("log", "--first-parent", "-m", "--no-renames", "--diff-filter=A", "--format=%H", "--", str(newest))
    added = git(*line).decode().partition("\n")[0]
    assert added, "The newest migration is not committed"
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(git("archive", f"{added}^", "src", "migrations"))) as archive:
        archive.extractall(folder, filter="data")
    assert not list((folder / "migrations" / "versions").glob(newest.name))
    return folder


@pytest.fixture
def old_server(older: Path, database_url: str, model: ModelServer, tmp_path: Path) -> Iterator[FreshServer]:
    prepare(database_url)
    settings = {"PYTHONPATH": str(older / "src"), "OPENAI_BASE_URL": f"{model.url}/v1"}
    server = FreshServer(database_url, tmp_path, **settings)
    yield server
    server.stop()


def test_the_code_of_before_works_on_the_newest_schema(old_server: FreshServer, older: Path) -> None:
    where = [sys.executable, "-c", "import ai_agent; print(ai_agent.__file__)"]
    told = subprocess.run(where, env=old_server.environment, cwd=old_server.folder, capture_output=True, text=True)
    assert told.stdout.startswith(str(older))
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"{old_server.url}/api/v1", headers=headers, timeout=30) as api:
        session = api.post("/sessions", json={"title": "before"}).json()
        said = api.post(f"/sessions/{session['id']}/messages", json={"role": "user", "content": "a needle"})
        assert said.status_code == 201
        assert api.patch(f"/sessions/{session['id']}", json={"title": "behind"}).json()["title"] == "behind"
        agent_id = make_agent(api)
        answer = api.post(f"/agents/{agent_id}/execute", json={"message": "hi", "session_id": session["id"]}).json()
        assert answer["content"] == "You said: hi"
        tool = {"name": "clock", "kind": "client", "schema": {"type": "object"}, "description": "x"}
        assert api.post("/tools", json=tool).status_code == 201
        for path in ("/sessions", "/agents", "/tools", "/executions", f"/sessions/{session['id']}/messages"):
            listed = api.get(path)
            assert (listed.status_code, bool(listed.json()["items"])) == (200, True), path
        assert api.delete(f"/sessions/{session['id']}").status_code == 204
    assert "Traceback" not in old_server.log.read_text()
