"""One way to query: a SQLAlchemy Core statement, compiled once per dialect, executed on the driver itself.

What Core is good for, statements that are checked, composed and portable, lies in writing and compiling them. Executing
through it doubles the CPU of a query and an ORM triples it, as `benchmarks/queries.py` measures.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import UpdateBase

from ai_agent.storage.tables import Json

Row = TypeVar("Row")

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
    build: Callable[[Sequence[Any]], Row]

    def arguments(self, parameters: dict[str, Any]) -> list[Any]:
        """The values in the driver's order."""
        defaults = self.defaults
        return [parameters[name] if name in parameters else defaults.get(name) for name in self.parameters]


class Statement(Generic[Row]):
    """A Core statement and what its rows become.

    `returns` is a Struct whose fields are the statement's columns, in order, or a function of a scalar's value.
    Without it the statement answers no rows.
    """

    def __init__(self, element: sa.Select[Any] | UpdateBase | sa.CompoundSelect[Any], returns: type[Row] | None = None):
        self.element = element
        self.returns = returns
        self._compiled: dict[str, Compiled[Row]] = {}

    def compiled(self, dialect: str) -> Compiled[Row]:
        found = self._compiled.get(dialect)
        if found is None:
            found = self._compiled[dialect] = self._compile(dialect)
        return found

    def _compile(self, dialect: str) -> Compiled[Row]:
        compiled = self.element.compile(dialect=_DIALECTS[dialect])
        names = tuple(compiled.positiontup or ())
        defaults = {name: value for name, value in compiled.params.items() if value is not None}
        return Compiled(str(compiled), names, defaults, self._builder(dialect))

    def _builder(self, dialect: str) -> Callable[[Sequence[Any]], Row]:
        if self.returns is None:
            return _no_rows
        columns = list(self.element.exported_columns)
        if not (isinstance(self.returns, type) and issubclass(self.returns, msgspec.Struct)):
            return _scalar(_converter(columns[0].type, self.returns, dialect))
        fields = msgspec.structs.fields(self.returns)
        if [c.key for c in columns] != [f.name for f in fields]:
            raise TypeError(f"{self.returns.__name__} has other fields than {[c.key for c in columns]}")
        converters = [_converter(c.type, f.type, dialect) for c, f in zip(columns, fields, strict=True)]
        return _struct(self.returns, [(i, c) for i, c in enumerate(converters) if c is not None])


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


def _converter(column: sa.types.TypeEngine[Any], field: Any, dialect: str) -> Callable[[Any], Any] | None:
    """What a driver's value needs to become the field's, or None where it is that already."""
    if column is Json:
        return _raw
    if isinstance(field, type) and issubclass(field, Enum):
        return field
    if dialect == "postgresql":
        return None
    if isinstance(column, sa.Uuid):
        return _uuid
    if isinstance(column, sa.DateTime):
        return _time
    return bool if isinstance(column, sa.Boolean) else None


def _raw(value: str | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if value is None else value.encode())


def _uuid(value: str | None) -> UUID | None:
    return None if value is None else UUID(value)


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def to_sqlite(value: Any) -> Any:
    """A parameter as SQLite stores it: ids and times as text that sorts like the value."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value
