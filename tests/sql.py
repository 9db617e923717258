"""A test's own way to a server's database: what is in it, and what it refuses."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Runs a statement of literals. Raises the driver's error."""
    if path := _sqlite(url):
        with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as database:
            return database.execute(sql).fetchall()

    async def run() -> list[tuple[Any, ...]]:
        database = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await database.fetch(sql)]
        finally:
            await database.close()

    return asyncio.run(run())


def dump(url: str) -> str:
    """Everything that a thief of the database would read."""
    if path := _sqlite(url):
        files = [Path(f"{path}{suffix}") for suffix in ("", "-wal")]
        return "".join(file.read_bytes().decode("latin-1") for file in files if file.exists())
    tables = execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return "\n".join(str(execute(url, f'SELECT t::text FROM "{name}" t')) for (name,) in tables)


def _sqlite(url: str) -> str | None:
    return url.removeprefix("sqlite:///") if url.startswith("sqlite") else None
