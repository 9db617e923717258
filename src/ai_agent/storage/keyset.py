"""Keyset paging on `(sort column, id)`: no row twice and none missed while others write, and every page costs the same.

Source: M. Winand, "We need tool support for keyset pagination" (use-the-index-luke.com/no-offset).
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.search import fold
from ai_agent.storage.database import Reader
from ai_agent.storage.functions import contains, like_pattern
from ai_agent.storage.statements import Statement

Row = TypeVar("Row", bound=msgspec.Struct)

_TAG_BYTES = 12


class Position(msgspec.Struct, array_like=True, frozen=True):
    """The last row of a page: its sort value and its id."""

    value: datetime | int | str
    id: UUID


class Bounds(msgspec.Struct, frozen=True):
    """Which rows of the ordered list: so many, behind a position or an offset."""

    limit: int
    offset: int = 0
    after: Position | None = None

    def parameters(self) -> dict[str, Any]:
        bounds: dict[str, Any] = {"row_limit": self.limit, "row_offset": self.offset}
        if self.after is not None:
            bounds |= {"after_value": self.after.value, "after_id": self.after.id}
        return bounds


class CursorCodec:
    """Cursors that are opaque and signed, so that a changed one, or one of another list, is refused."""

    def __init__(self, secret_key: str):
        self._key = hashlib.sha256(b"cursor:" + secret_key.encode()).digest()

    def encode(self, position: Position, context: str) -> str:
        body = msgspec.json.encode(position)
        return _text(self._tag(body, context) + body)

    def decode(self, cursor: str, context: str, value_type: type[Any]) -> Position:
        """Raises InvalidFields when the cursor is not one of ours, or of this list."""
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            if _text(raw) != cursor:  # base64 passes over characters that it does not know.
                raise ValueError(cursor)
            tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
            if hmac.compare_digest(tag, self._tag(body, context)):
                value, identity = msgspec.json.decode(body, type=tuple[value_type, UUID])  # type: ignore[valid-type]  # a column's type
                return Position(value, identity)
        except (ValueError, msgspec.MsgspecError):
            pass
        raise InvalidFields([FieldError("cursor", "Is not a cursor of this list", cursor)])

    def _tag(self, body: bytes, context: str) -> bytes:
        # Keyed BLAKE2 (RFC 7693) is a tenth of an HMAC's time, and every page takes two.
        return hashlib.blake2b(context.encode() + b"\0" + body, digest_size=_TAG_BYTES, key=self._key).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Pageable(Protocol):
    """A list that can be read a page at a time. Its rows have an attribute for each order."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str:
        """The attribute of a row that tells rows of equal sort values apart."""

    def sort_type(self, sort_by: str) -> type[Any]:
        """The Python type of the values of an order."""

    async def page(
        self, reader: Reader, owner: str, wanted: Any, sort_by: str, *, descending: bool, bounds: Bounds
    ) -> list[Any]: ...

    async def total(self, reader: Reader, owner: str, wanted: Any) -> int: ...


class Varying(msgspec.Struct, frozen=True):
    """A condition whose text depends on the filter's value, as on how often the filter was given."""

    shape: Callable[[Any], Hashable]
    """What of a value the text depends on."""
    condition: Callable[[Any], sa.ColumnElement[bool]]
    """The condition for a shape."""
    parameters: Callable[[Any], dict[str, Any]]
    """The parameters of a value."""


def containing(column: "sa.Column[Any]") -> Varying:
    """The filter that a column of folded text contains a text, whatever its case."""
    pattern, term = sa.bindparam("search_pattern", type_=sa.Text), sa.bindparam("search_term", type_=sa.Text)
    condition = contains(column, pattern, term)

    def parameters(search: str) -> dict[str, str]:
        folded = fold(search)
        return {"search_pattern": like_pattern(folded), "search_term": folded}

    return Varying(lambda _: None, lambda _: condition, parameters)


Condition = sa.ColumnElement[bool] | Varying
Shape = tuple[tuple[str, Hashable], ...]
"""The names of the filters that are given, each with what its condition's text depends on."""


class Listing(Generic[Row]):
    """The rows of a table, filtered, in order, a page at a time: those of an owner, or all where it is not `owned`.

    `conditions` says what a filter means; one that is not named compares the column of its name. Only the filters that
    a client gave become part of the statement, so there is one statement for each shape, compiled once. The ids
    in the column `identity` tell rows of equal sort values apart; `created` is the column of when a row came to be.
    """

    def __init__(
        self,
        table: sa.Table,
        row: type[Row],
        conditions: Mapping[str, Condition] | None = None,
        *,
        identity: str = "id",
        created: str = "created_at",
        owned: bool = True,
    ):
        self.identity = identity
        self._owned = owned
        self._table = table
        self._row = row
        self._conditions: dict[str, Condition] = {
            "created_after": table.c[created] > sa.bindparam("created_after"),
            "created_before": table.c[created] < sa.bindparam("created_before"),
            **(conditions or {}),
        }
        self.name = table.name
        self._page = lru_cache(maxsize=256)(self._page_statement)
        self._total = lru_cache(maxsize=256)(self._total_statement)

    def sort_type(self, sort_by: str) -> type[Any]:
        """The Python type of a sort column's values."""
        python_type: type[Any] = self._table.c[sort_by].type.python_type
        return python_type

    async def page(
        self, reader: Reader, owner: str, wanted: msgspec.Struct, sort_by: str, *, descending: bool, bounds: Bounds
    ) -> list[Row]:
        shape, parameters = self.asked(wanted)
        statement = self._page(shape, sort_by, descending, bounds.after is not None)
        return await reader.all(statement, owner=owner, **parameters, **bounds.parameters())

    async def total(self, reader: Reader, owner: str, wanted: msgspec.Struct) -> int:
        shape, parameters = self.asked(wanted)
        return await reader.first(self._total(shape), owner=owner, **parameters) or 0

    def asked(self, wanted: msgspec.Struct) -> tuple[Shape, dict[str, Any]]:
        """The filters that are set, in the order of their declaration, as the shape of a statement and its values."""
        shape: list[tuple[str, Hashable]] = []
        parameters: dict[str, Any] = {}
        for name in wanted.__struct_fields__:
            value = getattr(wanted, name)
            if value is None:
                continue
            condition = self._conditions.get(name)
            if isinstance(condition, Varying):
                shape.append((name, condition.shape(value)))
                parameters |= condition.parameters(value)
            else:
                shape.append((name, None))
                parameters[name] = value
        return tuple(shape), parameters

    def matching(self, filters: Shape) -> list[sa.ColumnElement[bool]]:
        """What rows must fulfil."""
        own = [self._table.c.owner_id == sa.bindparam("owner")] if self._owned else []
        return own + [self._condition(name, shape) for name, shape in filters]

    def _condition(self, name: str, shape: Hashable) -> sa.ColumnElement[bool]:
        condition = self._conditions.get(name)
        if isinstance(condition, Varying):
            return condition.condition(shape)
        return self._table.c[name] == sa.bindparam(name) if condition is None else condition

    def _page_statement(self, filters: Shape, sort_by: str, descending: bool, after: bool) -> Statement[Row]:
        column, identity = self._table.c[sort_by], self._table.c[self.identity]
        selected = sa.select(*(self._table.c[name] for name in self._row.__struct_fields__))
        selected = selected.where(*self.matching(filters))
        if after:
            bound = sa.tuple_(
                sa.bindparam("after_value", type_=column.type), sa.bindparam("after_id", type_=identity.type)
            )
            keys = sa.tuple_(column, identity)
            selected = selected.where(keys < bound if descending else keys > bound)
        order = (column.desc(), identity.desc()) if descending else (column.asc(), identity.asc())
        limit, offset = sa.bindparam("row_limit", type_=sa.Integer), sa.bindparam("row_offset", type_=sa.Integer)
        return Statement(selected.order_by(*order).limit(limit).offset(offset), self._row)

    def _total_statement(self, filters: Shape) -> Statement[int]:
        return Statement(sa.select(sa.func.count()).select_from(self._table).where(*self.matching(filters)), int)
