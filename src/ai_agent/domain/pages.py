"""What a client asks of a list, whatever it lists."""

from typing import Annotated

import msgspec
from msgspec import Meta

Limit = Annotated[int, Meta(ge=1, le=100)]
LongLimit = Annotated[int, Meta(ge=1, le=200)]
Offset = Annotated[int, Meta(ge=0, le=10_000)]
Cursor = Annotated[str, Meta(max_length=1024)]


class PageRequest(msgspec.Struct, frozen=True):
    """One page of a list: how many, from where, in which order."""

    limit: int
    cursor: str | None
    offset: int
    include_total: bool
    sort_by: str
    descending: bool


class Page(msgspec.Struct, kw_only=True):
    """The shape of every list. Subclasses add `items`, so that each has a name and a type of its own."""

    next_cursor: str | None = None
    has_more: bool = False
    total: int | None = None
