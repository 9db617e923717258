"""Keyset paging on `(sort column, id)`: no row twice and none missed while others write, and every page costs the same.

Source: M. Winand, "We need tool support for keyset pagination" (use-the-index-luke.com/no-offset).
"""

import base64
import hashlib
import hmac
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.errors import FieldError, InvalidFields

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
        return base64.urlsafe_b64encode(self._tag(body, context) + body).decode().rstrip("=")

    def decode(self, cursor: str, context: str, value_type: type[Any]) -> Position:
        """Raises InvalidFields when the cursor is not one of ours, or of this list."""
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
            if hmac.compare_digest(tag, self._tag(body, context)):
                value, identity = msgspec.json.decode(body, type=tuple[value_type, UUID])  # type: ignore[valid-type]
                return Position(value, identity)
        except (ValueError, msgspec.MsgspecError):
            pass
        raise InvalidFields([FieldError("cursor", "Is not a cursor of this list", cursor[:200])])

    def _tag(self, body: bytes, context: str) -> bytes:
        return hmac.digest(self._key, context.encode() + b"\0" + body, "sha256")[:_TAG_BYTES]


def page_statement(
    statement: sa.Select[Any], column: "sa.Column[Any]", identity: "sa.Column[Any]", *, descending: bool, after: bool
) -> sa.Select[Any]:
    """The statement with order and bounds; its parameters are those of `Bounds`."""
    if after:
        keys = sa.tuple_(column, identity)
        bound = sa.tuple_(sa.bindparam("after_value", type_=column.type), sa.bindparam("after_id", type_=identity.type))
        statement = statement.where(keys < bound if descending else keys > bound)
    order = (column.desc(), identity.desc()) if descending else (column.asc(), identity.asc())
    limit, offset = sa.bindparam("row_limit", type_=sa.Integer), sa.bindparam("row_offset", type_=sa.Integer)
    return statement.order_by(*order).limit(limit).offset(offset)
