"""Text in text, whatever its case. There are no wildcards, so there is nothing to escape."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class place_of(FunctionElement[int]):  # noqa: N801  # a SQL function's name
    """Where the second text begins in the first; 0 when it is not in there."""

    type = sa.Integer()
    inherit_cache = True


@compiles(place_of, "postgresql")
def _postgresql(element: FunctionElement[int], compiler: SQLCompiler, **kw: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **kw)})"


@compiles(place_of, "sqlite")
def _sqlite(element: FunctionElement[int], compiler: SQLCompiler, **kw: Any) -> str:
    return f"instr({compiler.process(element.clauses, **kw)})"


def contains(column: "sa.Column[Any]", parameter: str) -> sa.ColumnElement[bool]:
    """Whether a column's text contains that of a parameter."""
    return place_of(sa.func.lower(column), sa.func.lower(sa.bindparam(parameter, type_=sa.Text))) > 0
