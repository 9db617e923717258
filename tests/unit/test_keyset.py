"""Cursors that cannot be forged, and pages that miss nothing."""

import asyncio
import base64
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from ai_agent.domain.errors import InvalidFields
from ai_agent.domain.pages import Filter
from ai_agent.storage.keyset import Bounds, CursorCodec, Listing, Position, Varying
from ai_agent.storage.statements import Statement, to_sqlite
from ai_agent.storage.tables import Id, Time

CODEC = CursorCodec("s" * 32)
AT = datetime(2026, 1, 1, tzinfo=UTC)

moments = st.datetimes(timezones=st.just(UTC))
values = moments | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=300)
positions = st.builds(Position, values, st.uuids())


def refused(codec: CursorCodec, cursor: str, context: str, kind: type[Any]) -> bool:
    """Whether the cursor is refused in the way of the contract; any other error fails the test."""
    try:
        codec.decode(cursor, context, kind)
    except InvalidFields as error:
        return [field.field for field in error.errors] == ["cursor"]
    return False


@given(positions, st.text())
def test_a_cursor_comes_back_as_the_position_it_was_made_of(position: Position, context: str) -> None:
    assert CODEC.decode(CODEC.encode(position, context), context, type(position.value)) == position


@given(positions)
def test_a_cursor_needs_no_escape_in_an_address(position: Position) -> None:
    cursor = CODEC.encode(position, "list")
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(positions, st.data())
def test_a_cursor_with_any_other_byte_is_refused(position: Position, data: st.DataObject) -> None:
    cursor = CODEC.encode(position, "list")
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert refused(CODEC, base64.urlsafe_b64encode(raw).decode().rstrip("="), "list", type(position.value))


@given(positions, st.data())
def test_a_cut_cursor_is_refused(position: Position, data: st.DataObject) -> None:
    cursor = CODEC.encode(position, "list")
    assert refused(CODEC, cursor[: data.draw(st.integers(0, len(cursor) - 1))], "list", type(position.value))


@given(positions, st.text(), st.text())
def test_a_cursor_of_another_list_is_refused(position: Position, one: str, other: str) -> None:
    assert refused(CODEC, CODEC.encode(position, one), other, type(position.value)) == (one != other)


@given(positions)
def test_a_cursor_signed_with_another_secret_is_refused(position: Position) -> None:
    assert refused(CursorCodec("t" * 32), CODEC.encode(position, "list"), "list", type(position.value))


def test_a_cursor_of_another_type_is_refused() -> None:
    assert refused(CODEC, CODEC.encode(Position("name", UUID(int=1)), "list"), "list", datetime)


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_arbitrary_text_is_refused_as_a_cursor(text: str) -> None:
    for kind in (datetime, int, str):
        assert refused(CODEC, text, "list", kind)


class Row(msgspec.Struct):
    id: UUID
    created_at: datetime
    name: str


class RowFilter(Filter, frozen=True, kw_only=True):
    name: str | None = None
    word: str | None = None


TABLE = sa.Table(
    "rows",
    sa.MetaData(),
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255)),
    sa.Column("created_at", Time),
    sa.Column("name", sa.String(255)),
)


class Recorder:
    """A Reader that runs statements on SQLite in memory, and remembers them."""

    def __init__(self, *rows: Row):
        self.statements: list[Statement[Any]] = []
        self._database = sqlite3.connect(":memory:")
        self._database.execute(str(CreateTable(TABLE).compile(dialect=sqlite.dialect())))
        stored = [(to_sqlite(r.id), "me", to_sqlite(r.created_at), r.name) for r in rows]
        self._database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", stored)

    @property
    def sql(self) -> str:
        """The newest statement's text."""
        return " ".join(self.statements[-1].compiled("sqlite").sql.split())

    async def all(self, statement: Statement[Any], **parameters: Any) -> list[Any]:
        self.statements.append(statement)
        compiled = statement.compiled("sqlite")
        arguments = [to_sqlite(value) for value in compiled.arguments(parameters)]
        return [compiled.build(row) for row in self._database.execute(compiled.sql, arguments)]

    async def first(self, statement: Statement[Any], **parameters: Any) -> Any:
        return next(iter(await self.all(statement, **parameters)), None)

    def close(self) -> None:
        self._database.close()


@pytest.fixture
def reader() -> "Any":
    recorder = Recorder(Row(UUID(int=1), AT, "one"), Row(UUID(int=2), AT, "two"))
    yield recorder
    recorder.close()


def page(
    listing: Listing[Row],
    reader: Recorder,
    wanted: Filter | None = None,
    sort_by: str = "created_at",
    *,
    descending: bool = False,
    bounds: Bounds | None = None,
) -> list[Row]:
    found = listing.page(
        reader, "me", wanted or RowFilter(), sort_by, descending=descending, bounds=bounds or Bounds(10)
    )
    return asyncio.run(found)


def test_only_the_filters_that_are_given_are_in_the_statement(reader: Recorder) -> None:
    listing = Listing(TABLE, Row)
    assert [row.name for row in page(listing, reader)] == ["one", "two"]
    assert "WHERE rows.owner_id = ? ORDER BY" in reader.sql
    assert [row.name for row in page(listing, reader, RowFilter(name="two"))] == ["two"]
    assert "WHERE rows.owner_id = ? AND rows.name = ? ORDER BY" in reader.sql
    assert page(listing, reader, RowFilter(created_after=AT)) == []
    assert "rows.name = " not in reader.sql


def test_each_shape_is_one_statement_whatever_the_values(reader: Recorder) -> None:
    listing = Listing(TABLE, Row)
    for name in ("one", "two", "three"):
        page(listing, reader, RowFilter(name=name), bounds=Bounds(len(name), offset=1))
        page(listing, reader, RowFilter(name=name), bounds=Bounds(5, after=Position(AT, UUID(int=len(name)))))
    assert len(set(map(id, reader.statements))) == 2
    page(listing, reader, RowFilter(name="one"), descending=True)
    page(listing, reader, RowFilter(name="one"), "name")
    assert len(set(map(id, reader.statements))) == 4


def test_a_condition_of_the_listing_says_what_a_filter_means(reader: Recorder) -> None:
    listing = Listing(TABLE, Row, {"word": TABLE.c.name.contains(sa.bindparam("word"))})
    assert [row.name for row in page(listing, reader, RowFilter(word="w"))] == ["two"]


class RepeatedFilter(Filter, frozen=True, kw_only=True):
    words: tuple[str, ...] | None = None


def test_a_filter_that_is_repeated_is_a_statement_for_each_number_of_times(reader: Recorder) -> None:
    words = Varying(
        len,
        lambda count: sa.and_(*(TABLE.c.name.contains(sa.bindparam(f"word_{number}")) for number in range(count))),
        lambda given: {f"word_{number}": word for number, word in enumerate(given)},
    )
    listing = Listing(TABLE, Row, {"words": words})
    found = [page(listing, reader, RepeatedFilter(words=given)) for given in (("w",), ("t", "o"), ("n", "o"), ("z",))]
    assert [[row.name for row in rows] for rows in found] == [["two"], ["two"], ["one"], []]
    assert len(set(map(id, reader.statements))) == 2
    assert asyncio.run(listing.total(reader, "me", RepeatedFilter(words=("o",)))) == 2


def test_the_total_counts_what_matches_and_belongs_to_the_owner(reader: Recorder) -> None:
    listing = Listing(TABLE, Row)
    assert asyncio.run(listing.total(reader, "me", RowFilter())) == 2
    assert asyncio.run(listing.total(reader, "me", RowFilter(name="two"))) == 1
    assert asyncio.run(listing.total(reader, "somebody", RowFilter())) == 0


def test_another_owners_rows_are_on_no_page(reader: Recorder) -> None:
    listing = Listing(TABLE, Row)
    rows = listing.page(reader, "somebody", RowFilter(), "name", descending=False, bounds=Bounds(10))
    assert asyncio.run(rows) == []


def test_a_listing_that_is_nobodys_shows_the_rows_of_all(reader: Recorder) -> None:
    listing = Listing(TABLE, Row, owned=False)
    rows = listing.page(reader, "somebody", RowFilter(), "name", descending=False, bounds=Bounds(10))
    assert [row.name for row in asyncio.run(rows)] == ["one", "two"]
    assert "owner_id" not in reader.sql
    assert asyncio.run(listing.total(reader, "somebody", RowFilter(name="two"))) == 1


def test_the_sort_type_is_the_columns() -> None:
    listing = Listing(TABLE, Row)
    assert (listing.sort_type("created_at"), listing.sort_type("name")) == (datetime, str)


some_rows = st.lists(
    st.builds(Row, st.uuids(), st.integers(0, 3).map(lambda s: AT + timedelta(microseconds=s)), st.sampled_from("abc")),
    max_size=12,
    unique_by=lambda row: row.id,
)


@given(some_rows, st.integers(1, 4), st.booleans(), st.sampled_from(["created_at", "name"]))
def test_pages_behind_each_other_show_every_row_once_and_in_order(
    rows: list[Row], size: int, descending: bool, sort_by: str
) -> None:
    reader, listing = Recorder(*rows), Listing(TABLE, Row)
    seen: list[Row] = []
    after = None
    while found := page(listing, reader, sort_by=sort_by, descending=descending, bounds=Bounds(size, after=after)):
        seen += found
        assert len(found) <= size
        assert len(seen) <= len(rows)
        after = Position(getattr(found[-1], sort_by), found[-1].id)
    reader.close()
    assert seen == sorted(rows, key=lambda row: (getattr(row, sort_by), row.id), reverse=descending)


def test_a_cursor_with_any_changed_character_is_refused() -> None:
    codec = CursorCodec("s" * 32)
    for value in (1, 10, 100):  # each leaves another number of bits unused in the last character
        for number in range(5):
            cursor = codec.encode(Position(value, UUID(int=number)), "list")
            for index, old in enumerate(cursor):
                for new in {"+", "/", "!", "é", chr(ord(old) ^ 1)} - {old}:
                    with pytest.raises(InvalidFields):
                        codec.decode(cursor[:index] + new + cursor[index + 1 :], "list", int)


@pytest.mark.parametrize("extra", ["!!!!", "    ", "=", "===="])
def test_a_cursor_with_something_more_is_refused(extra: str) -> None:
    codec = CursorCodec("s" * 32)
    with pytest.raises(InvalidFields):
        codec.decode(codec.encode(Position(5, UUID(int=1)), "list") + extra, "list", int)
