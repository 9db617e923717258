"""SQL that each database spells in its own way."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ai_agent.storage.tables import Time


class among(FunctionElement[Any]):  # noqa: N801  # a SQL function's name
    """`among(column, values)`: whether the id, text or number is in a list, which is one parameter however long."""

    # Not a boolean: to one of those SQLAlchemy adds `= 1` on SQLite, which looks then for no index.
    type = sa.types.NULLTYPE
    inherit_cache = True


_LISTED: list[tuple[type[sa.types.TypeEngine[Any]], str]] = [(sa.Uuid, "UUID"), (sa.Integer, "BIGINT")]


@compiles(among, "postgresql")
def _among_on_postgresql(element: FunctionElement[bool], compiler: SQLCompiler, **kw: Any) -> str:
    listed = next(iter(element.clauses)).type
    kind = next((kind for type_, kind in _LISTED if isinstance(listed, type_)), "TEXT")
    column, ids = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} = ANY (CAST({ids} AS {kind}[]))"


@compiles(among, "sqlite")
def _among_on_sqlite(element: FunctionElement[bool], compiler: SQLCompiler, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  # of compiled parts


class contains(FunctionElement[bool]):  # noqa: N801  # a SQL function's name
    """`contains(text, pattern, term)`: whether the term is in the text; the pattern is the term as LIKE wants it."""

    type = sa.Boolean()
    inherit_cache = True


@compiles(contains, "postgresql")
def _contains_on_postgresql(element: FunctionElement[bool], compiler: SQLCompiler, **kw: Any) -> str:
    text, pattern, _ = element.clauses
    return f"({compiler.process(text, **kw)} LIKE {compiler.process(pattern, **kw)})"


@compiles(contains, "sqlite")
def _contains_on_sqlite(element: FunctionElement[bool], compiler: SQLCompiler, **kw: Any) -> str:
    text, _, term = element.clauses
    return f"(instr({compiler.process(text, **kw)}, {compiler.process(term, **kw)}) > 0)"


def like_pattern(term: str) -> str:
    """A LIKE pattern for text that has the term anywhere."""
    return "%" + term.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


class json_member(FunctionElement[str]):  # noqa: N801  # a SQL function's name
    """`json_member(document, key)`: a string, number or boolean of the object as text; null for anything else."""

    type = sa.Text()
    inherit_cache = True


@compiles(json_member, "postgresql")
def _json_member_on_postgresql(element: FunctionElement[str], compiler: SQLCompiler, **kw: Any) -> str:
    document, key = (compiler.process(clause, **kw) for clause in element.clauses)
    kind = f"json_typeof({document} -> {key})"
    return f"CASE WHEN {kind} IN ('string', 'number', 'boolean') THEN {document} ->> {key} END"


@compiles(json_member, "sqlite")
def _json_member_on_sqlite(element: FunctionElement[str], compiler: SQLCompiler, **kw: Any) -> str:
    document, key = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"json_member({document}, {key})"


def json_text(document: str, key: str) -> str | None:
    """What `json_member` calls on SQLite, whose own functions round numbers and cannot name every key."""
    value = msgspec.json.decode(document).get(key)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return format(Decimal(str(value)), "f")
    return value if isinstance(value, str) else None


class seconds_from_now(FunctionElement[datetime]):  # noqa: N801  # a SQL function's name
    """The database's time and so many seconds: leases are compared on one clock, whatever the nodes' clocks say."""

    type = Time
    inherit_cache = True


@compiles(seconds_from_now, "postgresql")
def _seconds_from_now_on_postgresql(element: FunctionElement[datetime], compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"clock_timestamp() + make_interval(secs => {seconds})"


@compiles(seconds_from_now, "sqlite")
def _seconds_from_now_on_sqlite(element: FunctionElement[datetime], compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', {seconds} || ' seconds')"
