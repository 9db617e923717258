"""Statements: one Core statement, two dialects, and rows that become Structs."""

import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.storage.statements import Statement, to_sqlite
from ai_agent.storage.tables import Id, Json, Time

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
AT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)


class Colour(StrEnum):
    RED = "red"


things = sa.table(
    "things",
    sa.column("id", Id),
    sa.column("at", Time),
    sa.column("done", sa.Boolean),
    sa.column("colour", sa.String),
    sa.column("data", Json),
    sa.column("name", sa.String),
)


class Thing(msgspec.Struct):
    id: UUID | None
    at: datetime | None
    done: bool
    colour: Colour
    data: msgspec.Raw
    name: str | None


THINGS: Statement[Thing] = Statement(sa.select(*things.c), Thing)


def flat(sql: str) -> str:
    return " ".join(sql.split())


def test_parameters_are_numbered_on_postgresql_and_question_marks_on_sqlite_in_the_order_of_the_text() -> None:
    where = (things.c.name == sa.bindparam("b"), things.c.colour == sa.bindparam("a"))
    statement = Statement(sa.select(things.c.name).where(*where), str)
    on_postgresql, on_sqlite = statement.compiled("postgresql"), statement.compiled("sqlite")
    assert flat(on_postgresql.sql).endswith("WHERE things.name = $1 AND things.colour = $2")
    assert flat(on_sqlite.sql).endswith("WHERE things.name = ? AND things.colour = ?")
    for compiled in (on_postgresql, on_sqlite):
        assert list(compiled.arguments({"a": "red", "b": "box"})) == ["box", "red"]


def test_a_name_used_twice_is_one_number_on_postgresql_and_two_question_marks_on_sqlite() -> None:
    same = sa.or_(things.c.name == sa.bindparam("text"), things.c.colour == sa.bindparam("text"))
    statement = Statement(sa.select(things.c.name).where(same, things.c.done == sa.bindparam("done")), str)
    on_postgresql, on_sqlite = statement.compiled("postgresql"), statement.compiled("sqlite")
    assert "things.name = $1 OR things.colour = $1" in on_postgresql.sql
    assert list(on_postgresql.arguments({"text": "x", "done": True})) == ["x", True]
    assert "things.name = ? OR things.colour = ?" in on_sqlite.sql
    assert list(on_sqlite.arguments({"text": "x", "done": True})) == ["x", "x", True]


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_constants_of_a_statement_are_its_defaults(dialect: str) -> None:
    where = (things.c.name == sa.bindparam("name"), things.c.colour == "red")
    compiled = Statement(sa.select(things.c.name).where(*where).limit(10), str).compiled(dialect)
    assert list(compiled.arguments({"name": "box"}))[:3] == ["box", "red", 10]


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_a_missing_parameter_is_null(dialect: str) -> None:
    statement: Statement[None] = Statement(sa.insert(things).values(name=sa.bindparam("name")))
    compiled = statement.compiled(dialect)
    assert list(compiled.arguments({})) == [None]
    assert list(compiled.arguments({"name": None})) == [None]


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_a_parameter_of_its_own_beats_a_constant_and_null_beats_it_too(dialect: str) -> None:
    where = (things.c.colour == sa.bindparam("colour", "red"), things.c.name == sa.bindparam("name"))
    compiled = Statement(sa.select(things.c.name).where(*where), str).compiled(dialect)
    assert list(compiled.arguments({})) == ["red", None]
    assert list(compiled.arguments({"colour": "blue"})) == ["blue", None]
    assert list(compiled.arguments({"colour": None})) == [None, None]
    assert list(compiled.arguments({"colour": None, "name": "box"})) == [None, "box"]


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_a_statement_without_parameters_takes_none(dialect: str) -> None:
    assert list(Statement(sa.select(things.c.name), str).compiled(dialect).arguments({"other": 1})) == []


def test_a_statement_is_compiled_once_for_each_dialect() -> None:
    statement = Statement(sa.select(things.c.name), str)
    assert statement.compiled("sqlite") is statement.compiled("sqlite")
    assert statement.compiled("sqlite") is not statement.compiled("postgresql")


class Renamed(msgspec.Struct):
    id: UUID
    title: str


class Shorter(msgspec.Struct):
    id: UUID


class Swapped(msgspec.Struct):
    name: str
    id: UUID


@pytest.mark.parametrize("struct", [Renamed, Shorter, Swapped])
def test_a_struct_whose_fields_are_not_the_columns_is_refused(struct: type[msgspec.Struct]) -> None:
    statement = Statement(sa.select(things.c.id, things.c.name), struct)
    with pytest.raises(TypeError, match=struct.__name__):
        statement.compiled("sqlite")


def test_a_statement_without_rows_builds_none() -> None:
    statement: Statement[None] = Statement(sa.delete(things))
    with pytest.raises(TypeError):
        statement.compiled("sqlite").build([1])


def test_texts_of_sqlite_become_ids_times_booleans_and_enums() -> None:
    row = [str(ID), "2026-01-02T03:04:05.000006Z", 1, "red", '{"a":1}', "box"]
    thing = THINGS.compiled("sqlite").build(row)
    assert thing == Thing(ID, AT, True, Colour.RED, msgspec.Raw(b'{"a":1}'), "box")
    assert (type(thing.done), type(thing.colour)) == (bool, Colour)
    assert thing.at is not None
    assert thing.at.tzinfo is not None


def test_what_asyncpg_gives_stays_what_it_is() -> None:
    thing = THINGS.compiled("postgresql").build([ID, AT, False, "red", msgspec.Raw(b'{"a": 1}'), None])
    assert (thing.id, thing.at, thing.done) == (ID, AT, False)
    assert thing.colour is Colour.RED
    assert bytes(thing.data) == b'{"a": 1}'


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_null_stays_null_and_in_json_is_written_as_null(dialect: str) -> None:
    thing = THINGS.compiled(dialect).build([None, None, False, "red", None, None])
    assert (thing.id, thing.at, thing.name) == (None, None, None)
    assert bytes(thing.data) == b"null"


def test_a_scalar_is_converted_like_a_field() -> None:
    ids: Statement[UUID] = Statement(sa.select(things.c.id), UUID)
    done: Statement[bool] = Statement(sa.select(things.c.done), bool)
    assert ids.compiled("sqlite").build([str(ID)]) == ID
    assert ids.compiled("postgresql").build([ID]) is ID
    assert done.compiled("sqlite").build([0]) is False


def test_a_row_written_to_sqlite_is_read_as_it_was() -> None:
    names = [column.name for column in things.c]
    insert: Statement[None] = Statement(sa.insert(things).values({name: sa.bindparam(name) for name in names}))
    thing = Thing(ID, AT, True, Colour.RED, msgspec.Raw(b"[]"), "box")
    values = msgspec.structs.asdict(thing)
    with sqlite3.connect(":memory:") as database:
        database.execute(f"CREATE TABLE things ({', '.join(names)})")
        compiled = insert.compiled("sqlite")
        database.execute(compiled.sql, [to_sqlite(value) for value in compiled.arguments(values)])
        read = THINGS.compiled("sqlite")
        rows = [read.build(row) for row in database.execute(read.sql)]
    database.close()
    assert rows == [thing]


zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(timezones=zones).filter(lambda moment: 1000 < moment.year < 9999)


@given(moments, moments)
def test_times_on_sqlite_sort_like_times(one: datetime, other: datetime) -> None:
    assert (to_sqlite(one) < to_sqlite(other)) == (one < other)
    assert (to_sqlite(one) == to_sqlite(other)) == (one == other)


@given(moments)
def test_times_on_sqlite_keep_their_microseconds_and_fit_their_column(moment: datetime) -> None:
    text = to_sqlite(moment)
    assert datetime.fromisoformat(text) == moment
    assert (len(text), text[-1]) == (27, "Z")


@given(st.uuids(), st.uuids())
def test_ids_on_sqlite_sort_like_ids(one: UUID, other: UUID) -> None:
    assert (to_sqlite(one) < to_sqlite(other)) == (one < other)
    assert UUID(to_sqlite(one)) == one


def test_json_goes_to_sqlite_as_text() -> None:
    assert to_sqlite(msgspec.Raw(b'{"a":"\xc3\xbc"}')) == '{"a":"ü"}'


@pytest.mark.parametrize("value", [None, 5, 1.5, "text", b"bytes", True])
def test_other_values_go_to_sqlite_as_they_are(value: object) -> None:
    assert to_sqlite(value) is value


def test_early_times_on_sqlite_sort_like_times() -> None:
    assert to_sqlite(datetime.fromisoformat("0500-01-01T00:00:00+00:00")) < "2026"
