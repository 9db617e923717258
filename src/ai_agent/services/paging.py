"""Pages of any list: a cursor or an offset in, rows and the next cursor out."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.pages import Page, PageRequest
from ai_agent.storage.keyset import Bounds, CursorCodec, Position

Item = TypeVar("Item", bound=msgspec.Struct)
PageType = TypeVar("PageType", bound=Page)

_TIMES = {"created_at", "updated_at", "last_activity"}


class Pager:
    def __init__(self, cursors: CursorCodec):
        self._cursors = cursors

    async def page(
        self,
        page_type: type[PageType],
        request: PageRequest,
        context: str,
        fetch: Callable[[Bounds], Awaitable[list[Item]]],
        total: Callable[[], Awaitable[int]],
    ) -> PageType:
        """One page. `context` names owner, list and filters: a cursor of another list is refused with InvalidFields."""
        if request.cursor and request.offset:
            raise InvalidFields([FieldError("offset", "Cannot be combined with cursor", request.offset)])
        context = f"{context}|{request.sort_by}|{request.descending}"
        after = self._cursors.decode(request.cursor, context, _value_type(request.sort_by)) if request.cursor else None
        # One row more than asked for tells whether there is more.
        rows = await fetch(Bounds(request.limit + 1, request.offset, after))
        items, more = rows[: request.limit], len(rows) > request.limit
        next_cursor = self._cursors.encode(_position(items[-1], request.sort_by), context) if more else None
        count = await total() if request.include_total else None
        return page_type(items=items, next_cursor=next_cursor, has_more=more, total=count)  # type: ignore[call-arg]  # each adds `items`


def _value_type(sort_by: str) -> type[Any]:
    if sort_by in _TIMES:
        return datetime
    return int if sort_by == "position" else str


def _position(item: Any, sort_by: str) -> Position:
    return Position(getattr(item, sort_by), item.id)
