"""One way to query: a SQLAlchemy Core statement, compiled once per dialect, executed on the driver itself.

What Core is good for, statements that are checked, composed and portable, lies in writing and compiling them. Executing
through it doubles the CPU of a query and an ORM triples it, as `benchmarks/queries.py` measures.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from operator import itemgetter
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import UpdateBase

from ai_agent.storage.tables import Json

Row = TypeVar("Row")

VERSION = "row_version"

_NULL = msgspec.Raw(b"null")

_DIALECTS: dict[str, sa.Dialect] = {
    # Numbered and unnamed, as asyncpg wants them.
    "postgresql": postgresql.dialect(paramstyle="numeric_dollar"),  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
    "sqlite": sqlite.dialect(paramstyle="qmark"),
}


class Compiled(msgspec.Struct, Generic[Row], frozen=True):
    """A statement of one dialect: its text, the order of its parameters, and how a row becomes a Struct."""

    sql: str
    parameters: tuple[str, ...]
    defaults: dict[str, Any]
    pick: Callable[[dict[str, Any]], Sequence[Any]]
    build: Callable[[Sequence[Any]], Row]

    def arguments(self, parameters: dict[str, Any]) -> Sequence[Any]:
        """The values in the driver's order."""
        try:
            return self.pick(parameters)
        except KeyError:  # Constants of the statement, and what the call leaves null.
            return [parameters.get(name, self.defaults.get(name)) for name in self.parameters]


class Statement(Generic[Row]):
    """A Core statement and what its rows become.

    `returns` is a Struct whose fields are the statement's columns, in order, or the type of its only column. A last
    column more, `row_version`, becomes the attribute of a Resource.
    Without it the statement answers no rows.
    """

    def __init__(self, element: sa.Select[Any] | UpdateBase | sa.CompoundSelect[Any], returns: type[Row] | None = None):
        self.element = element
        self.returns = returns
        self._compiled: dict[str, Compiled[Row]] = {}

    @cached_property
    def summary(self) -> tuple[str, str]:
        """What it does and to which table: `SELECT`, `sessions`."""
        if isinstance(self.element, UpdateBase):
            return type(self.element).__name__.upper(), str(getattr(self.element, "table").name)  # noqa: B009  # of each kind
        found = next(iter(sa.sql.util.find_tables(self.element, include_aliases=False)), None)
        return "SELECT", "" if found is None else str(getattr(found, "name", ""))

    def compiled(self, dialect: str) -> Compiled[Row]:
        found = self._compiled.get(dialect)
        if found is None:
            found = self._compiled[dialect] = self._compile(dialect)
        return found

    def _compile(self, dialect: str) -> Compiled[Row]:
        compiled = self.element.compile(dialect=_DIALECTS[dialect])
        names = tuple(compiled.positiontup or ())
        defaults = {name: value for name, value in compiled.params.items() if value is not None}
        return Compiled(str(compiled), names, defaults, _picker(names), self._builder(dialect))

    def _builder(self, dialect: str) -> Callable[[Sequence[Any]], Row]:
        if self.returns is None:
            return _no_rows
        columns = list(self.element.exported_columns)
        versioned = columns[-1].key == VERSION
        if not (isinstance(self.returns, type) and issubclass(self.returns, msgspec.Struct)):
            return _scalar(_converter(columns[0].type, self.returns, dialect))
        fields = msgspec.structs.fields(self.returns)
        if [c.key for c in columns[: len(columns) - versioned]] != [f.name for f in fields]:
            raise TypeError(f"{self.returns.__name__} has other fields than {[c.key for c in columns]}")
        converters = [_converter(c.type, f.type, dialect) for c, f in zip(columns, fields, strict=not versioned)]
        build = _struct(self.returns, [(i, c) for i, c in enumerate(converters) if c is not None])
        return _versioned(build) if versioned else build


def _picker(names: tuple[str, ...]) -> Callable[[dict[str, Any]], Sequence[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda parameters: [parameters[name] for name in names]


def _no_rows(_: Sequence[Any]) -> Any:
    raise TypeError("This statement answers no rows")


def _scalar(convert: Callable[[Any], Any] | None) -> Callable[[Sequence[Any]], Any]:
    if convert is None:
        return lambda row: row[0]
    return lambda row: convert(row[0])


def _struct(struct: type[Any], converters: list[tuple[int, Callable[[Any], Any]]]) -> Callable[[Sequence[Any]], Any]:
    def build(row: Sequence[Any]) -> Any:
        values = list(row)
        for index, convert in converters:
            values[index] = convert(values[index])
        return struct(*values)

    return build


def _versioned(build: Callable[[Sequence[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    def build_versioned(row: Sequence[Any]) -> Any:
        *values, version = row
        built = build(values)
        built.row_version = version
        return built

    return build_versioned


def _converter(column: sa.types.TypeEngine[Any], field: Any, dialect: str) -> Callable[[Any], Any] | None:
    """What a driver's value needs to become the field's, or None where it is that already."""
    if column is Json:
        return _or_null if dialect == "postgresql" else _raw
    if isinstance(field, type) and issubclass(field, Enum):
        return field._value2member_map_.__getitem__
    if dialect == "postgresql":
        return None
    if isinstance(column, sa.Uuid):
        return _uuid
    if isinstance(column, sa.DateTime):
        return _time
    return bool if isinstance(column, sa.Boolean) else None


def _or_null(value: msgspec.Raw | None) -> msgspec.Raw:
    return _NULL if value is None else value


def _raw(value: str | None) -> msgspec.Raw:
    return _NULL if value is None else msgspec.Raw(value.encode())


def _uuid(value: str | None) -> UUID | None:
    return None if value is None else UUID(value)


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def to_sqlite(value: Any) -> Any:
    """A parameter as SQLite stores it: ids and times as text that sorts like the value."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    if isinstance(value, list):
        return msgspec.json.encode(value).decode()
    return value
