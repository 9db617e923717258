"""Pages of any list: a cursor or an offset in, rows and the next cursor out."""

from typing import TypeVar

import msgspec

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.pages import Page, PageRequest
from ai_agent.storage.database import Database
from ai_agent.storage.keyset import Bounds, CursorCodec, Pageable, Position

PageType = TypeVar("PageType", bound=Page)


class Pager:
    def __init__(self, database: Database, cursors: CursorCodec):
        self._database = database
        self._cursors = cursors

    async def page(
        self, page_type: type[PageType], listing: Pageable, owner: str, wanted: msgspec.Struct, request: PageRequest
    ) -> PageType:
        """One page of an owner's list. Raises InvalidFields for a cursor that is not of this very list."""
        if request.cursor and request.offset:
            raise InvalidFields([FieldError("offset", "Cannot be combined with cursor", request.offset)])
        reader, sort_by = self._database.reader, request.sort_by
        context = f"{listing.name}|{owner}|{wanted}|{sort_by}|{request.descending}"
        after = None
        if request.cursor:
            after = self._cursors.decode(request.cursor, context, listing.sort_type(sort_by))
        # One row more than asked for tells whether there is more.
        bounds = Bounds(request.limit + 1, request.offset, after)
        rows = await listing.page(reader, owner, wanted, sort_by, descending=request.descending, bounds=bounds)
        items, more = rows[: request.limit], len(rows) > request.limit
        next_cursor = None
        if more:
            last = Position(getattr(items[-1], sort_by), getattr(items[-1], listing.identity))
            next_cursor = self._cursors.encode(last, context)
        total = await listing.total(reader, owner, wanted) if request.include_total else None
        return page_type(items=items, next_cursor=next_cursor, has_more=more, total=total)  # type: ignore[call-arg]  # each adds `items`
