"""Filters of lists: only those that a client gave become part of a statement, so each shape is compiled once."""

from typing import Any

import msgspec


def given(wanted: msgspec.Struct) -> dict[str, Any]:
    """The filters that are set, in the order of their declaration."""
    return {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
