"""Filters of lists: only those that a client gave become part of a statement, so each shape is compiled once."""

from collections.abc import Callable, Mapping

import sqlalchemy as sa


def conditions(
    available: Mapping[str, Callable[[], sa.ColumnElement[bool]]], present: tuple[str, ...]
) -> list[sa.ColumnElement[bool]]:
    return [available[name]() for name in present]


def contains(column: sa.ColumnElement[str], parameter: str) -> sa.ColumnElement[bool]:
    """Case-insensitive containment. The parameter is a pattern made by `containing`."""
    return column.ilike(sa.bindparam(parameter, type_=sa.Text), escape="\\")


def containing(text: str) -> str:
    """The pattern that finds `text` anywhere, with its own wildcards taken as letters."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
