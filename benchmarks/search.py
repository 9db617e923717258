"""How long a search takes, by the kind of query: full-text search over all messages of an owner.

    uv run --group bench python -m benchmarks.search [--messages N] [--queries N] [--database postgresql|sqlite]

Once with 20 owners and once with one who has everything. The texts are parts of Python's own documentation, with names
that few have; one message in twenty is Chinese. Time is from the query's text to the page with its snippets, one search
after the other.
"""

import argparse
import asyncio
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from string import ascii_lowercase
from typing import Any

import asyncpg
import msgspec
import uvloop

from ai_agent.domain.fields import new_id
from ai_agent.domain.identity import Principal
from ai_agent.domain.messages import SearchFilter
from ai_agent.domain.pages import PageRequest
from ai_agent.domain.search import fold, parse, searchable
from ai_agent.services.messages import MessageService
from ai_agent.services.paging import Pager
from ai_agent.storage.engine import create_database, sqlite_path
from ai_agent.storage.keyset import CursorCodec
from ai_agent.storage.statements import to_sqlite
from benchmarks import report, seed
from benchmarks.processes import OTHER_CORES, SERVER_CORES, cleaned_up, on_cores
from tests.servers import PostgresServer

SESSION_LENGTH = 40
LAYOUTS = {"20 owners": 20, "1 owner": 1}

_START = datetime(2026, 1, 1, tzinfo=UTC)
_MESSAGE = ("id", "owner_id", "session_id", "role", "content", "search_text", "metadata", "tool_calls", "position")
_SESSION = ("id", "owner_id", "metadata", "message_count", "next_position")


class Corpus:
    """Texts of messages, and queries of which it is known how common their words are."""

    def __init__(self, count: int):
        self._random = random.Random(7)
        self._source = " ".join(" ".join(topics.values()).split())
        frequencies = Counter(word for word in self._source.lower().split() if word.isalpha() and len(word) > 3)
        self.words = [word for word, _ in frequencies.most_common()]
        self.names = ["".join(self._random.choices(ascii_lowercase, k=8)) for _ in range(count // 20)]
        self.texts = [self._text(number, count) for number in range(count)]

    def _text(self, number: int, count: int) -> str:
        """Questions are short, answers long; one message in five has a name that few others have."""
        median_length = 80 if number % 2 else 600
        length = min(20_000, 5 + int(median_length * self._random.lognormvariate(0, 0.8)))
        if self._random.random() < 0.05:
            return "".join(chr(0x4E00 + int(2000 * self._random.random() ** 3)) for _ in range(length // 3))
        start = self._random.randrange(max(1, len(self._source) - length))
        text = self._source[start : start + length]
        if self._random.random() < 0.2:
            text += f" {self._random.choice(self.names)}"
        # Common long ago, and never since.
        return text + " bygone" if number < count * 0.3 and self._random.random() < 0.5 else text

    def common(self) -> str:
        return self._random.choice(self.words[:40])

    def medium(self) -> str:
        return self._random.choice(self.words[200:600])

    def rare(self) -> str:
        return self._random.choice([self._random.choice(self.words[-1500:]), self._random.choice(self.names)])

    def phrase(self, length: int) -> str:
        """A part of some message that begins with a word."""
        while True:
            text = self._random.choice(self.texts)
            start = text.find(" ", self._random.randrange(len(text))) + 1
            part = text[start : start + length].strip()
            if start and len(part) >= length - 5 and '"' not in part:
                return f'"{part}"'

    def chinese(self, power: int) -> str:
        return "".join(chr(0x4E00 + int(2000 * self._random.random() ** power)) for _ in range(2))


KINDS: dict[str, Callable[[Corpus], str]] = {
    "rare word": lambda c: c.rare(),
    "less common word": lambda c: c.medium(),
    "common word": lambda c: c.common(),
    "common long ago": lambda _: "bygone",
    "short phrase": lambda c: c.phrase(20),
    "long phrase": lambda c: c.phrase(190),
    "two common words": lambda c: f"{c.common()} {c.common()}",
    "common and rare": lambda c: f"{c.common()} {c.rare()}",
    "common or common": lambda c: f"{c.common()} or {c.common()}",
    "common or rare": lambda c: f"{c.common()} or {c.rare()}",
    "rare or rare": lambda c: f"{c.rare()} or {c.rare()}",
    "three ors": lambda c: f"{c.medium()} or {c.rare()} or {c.common()}",
    "common, not common": lambda c: f"{c.common()} -{c.common()}",
    "rare, not common": lambda c: f"{c.rare()} -{c.common()}",
    "no hit": lambda c: f"{c.rare()}wq{c.rare()}",
    "no hit of common words": lambda c: f'"{c.common()}{c.common()}wq"',
    "two Chinese characters": lambda c: c.chinese(3),
    "two rare Chinese ones": lambda c: c.chinese(1),
    "two letters, no hit": lambda _: "wq",
    "punctuation": lambda _: "%%%%",
}


class Measurement(msgspec.Struct, frozen=True):
    layout: str
    kind: str
    query: str
    hits: int
    ms: float


@cache
def corpus(count: int) -> Corpus:
    return Corpus(count)


def rows(count: int, owners: int) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Sessions and messages, in the order of time; owners take turns by session."""
    sessions: list[tuple[Any, ...]] = []
    messages: list[tuple[Any, ...]] = []
    empty, none = msgspec.Raw(b"{}"), msgspec.Raw(b"[]")
    for number, text in enumerate(corpus(count).texts):
        owner, position = f"owner-{number // SESSION_LENGTH % owners}", number % SESSION_LENGTH + 1
        at = _START + number * timedelta(seconds=7)
        if position == 1:
            sessions.append((new_id(), owner, empty, SESSION_LENGTH, SESSION_LENGTH, at, at, at))
        role = "user" if number % 2 else "assistant"
        own = (new_id(), owner, sessions[-1][0], role, text, searchable(fold(text)), empty, none, position)
        messages.append((*own, at, at))
    return sessions, messages


async def fill(url: str, count: int, owners: int) -> None:
    sessions, messages = rows(count, owners)
    tables = (
        ("sessions", (*_SESSION, "last_activity", "created_at", "updated_at"), sessions),
        ("messages", (*_MESSAGE, "created_at", "updated_at"), messages),
    )
    path = sqlite_path(url)
    if path is not None:
        await asyncio.to_thread(_fill_sqlite, path, tables)
        return
    connection = await asyncpg.connect(url)
    # Filled first and indexed then, as a restored copy is.
    await connection.execute("DROP INDEX ix_messages_search_text")
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
    for table, columns, filled in tables:
        await connection.copy_records_to_table(table, records=filled, columns=columns)
    await connection.execute("CREATE INDEX ix_messages_search_text ON messages USING gin (search_text gin_trgm_ops)")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def _fill_sqlite(path: Path, tables: Any) -> None:
    with sqlite3.connect(path) as connection:
        for table, columns, filled in tables:
            stored = ([to_sqlite(value) for value in row] for row in filled)
            places = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", stored)
        connection.execute("ANALYZE")
    connection.close()


async def measure(layout: str, url: str, count: int, queries: int) -> list[Measurement]:
    database = create_database(url, pool_size=1, statement_timeout=2)
    await database.open()
    service = MessageService(database, Pager(database, CursorCodec("s" * 32)))
    owner = Principal(subject="owner-0", scopes=frozenset())
    measured = []
    try:
        for kind, query in asked(count, queries):
            begun = time.perf_counter()
            page = PageRequest(50, None, 0, False, "rank", descending=True)
            found = await service.search(owner, SearchFilter(search=parse(query)), page)
            elapsed = (time.perf_counter() - begun) * 1000
            measured.append(Measurement(layout, kind, query, len(found.items), elapsed))
    finally:
        await database.close()
    return measured


def asked(count: int, queries: int) -> Iterator[tuple[str, str]]:
    """The kinds in turns, so that a disturbance meets all of them."""
    for _ in range(queries):
        for kind, query in KINDS.items():
            yield kind, query(corpus(count))


async def measure_all(server_url: str | None, folder: Path, options: argparse.Namespace) -> list[Measurement]:
    measured = []
    for layout, owners in LAYOUTS.items():
        if server_url is None:
            url = f"sqlite:///{folder / f'search{owners}.db'}"
        else:
            url = await seed.create_postgres_database(server_url, f"search{owners}")
        await asyncio.to_thread(seed.upgrade, url, folder)
        await fill(url, options.messages, owners)
        await measure(layout, url, options.messages, 2)  # Caches are filled, also the one of statements.
        measured += await measure(layout, url, options.messages, options.queries)
    return measured


def table(measured: list[Measurement]) -> str:
    lines = [("owners", "query", "hits", "p50 ms", "p99 ms")]
    for layout in LAYOUTS:
        for kind in (*KINDS, "all"):
            found = [one for one in measured if one.layout == layout and kind in (one.kind, "all")]
            times = sorted(one.ms for one in found)
            hits = f"{median(one.hits for one in found):.0f}"
            p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
            lines.append((layout, kind, hits, f"{median(times):.1f}", f"{p99:.1f}"))
    return report.aligned(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=50, help="of each kind")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    options = parser.parse_args()
    with cleaned_up() as (stack, folder):
        url = started(stack) if options.database == "postgresql" else None
        with on_cores(SERVER_CORES):
            measured = uvloop.run(measure_all(url, folder, options))
    print(table(measured))
    print(f"\nAll measurements: {report.save('search', options=vars(options), measurements=measured)}")
    return 0


def started(stack: ExitStack) -> str:
    with on_cores(OTHER_CORES):
        postgres = PostgresServer()
    stack.callback(postgres.stop)
    return postgres.url


if __name__ == "__main__":
    sys.exit(main())
