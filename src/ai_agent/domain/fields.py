"""The types and bounds that fields of several resources share."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import uuid_utils.compat
from msgspec import Meta

from ai_agent.domain.errors import FieldError, InvalidFields

MAX_DEPTH = 64
"""Of JSON that is taken in: a body, and what a tool answers."""
METADATA_BYTES = 16 * 1024
METADATA_DEPTH = 8
CONTENT_BYTES = 1024 * 1024
BULK = 100
"""Items of one call."""

Title = Annotated[str, Meta(max_length=500)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
Description = Annotated[str, Meta(max_length=4096)]
SystemPrompt = Annotated[str, Meta(max_length=100_000)]
Content = Annotated[str, Meta(max_length=CONTENT_BYTES)]
Label = Annotated[str, Meta(min_length=1, max_length=255)]

KEPT_SECRET = "***"  # noqa: S105  # no secret, but the sign of one
"""What is shown in a secret's place, and what keeps it when it is written back."""

JsonObject = dict[str, Any]
"""A JSON object as the client sent it."""

JsonValue = Annotated[
    Any, Meta(extra_json_schema={"type": ["object", "array", "string", "number", "boolean", "null"], "items": {}})
]
"""Whatever JSON can say."""

StoredJson = msgspec.Raw
"""JSON on its way from the database to the client, which nobody here reads and so nobody decodes."""


class Holds(msgspec.Struct, frozen=True):
    """Says what a field of undecoded JSON holds, for the OpenAPI document: `Annotated[StoredJson, Holds(Usage)]`."""

    type: Any


StoredObject = Annotated[StoredJson, Holds(JsonObject)]
StoredObjects = Annotated[StoredJson, Holds(list[JsonObject])]


def to_json(value: object) -> StoredJson:
    """A value as JSON, on its way to the database or to a client."""
    return msgspec.Raw(msgspec.json.encode(value))


def packed_json(text: bytes) -> bytes:
    """JSON as MessagePack of the same value."""
    value = msgspec.json.decode(text)
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return msgspec.msgpack.encode(_narrowed(value))


def _narrowed(value: Any) -> Any:
    """Integers beyond 64 bits, which MessagePack has not, as what other JSON readers make of them: floats."""
    if isinstance(value, dict):
        return {name: _narrowed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_narrowed(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(str(value))
    return value


class Input(msgspec.Struct, forbid_unknown_fields=True):
    """A request's body. Subclasses check what types cannot say in `check()`; unknown fields are refused."""

    def check(self) -> list[FieldError]:
        """Returns what is wrong with the values, beyond their types."""
        return []

    def __post_init__(self) -> None:
        if errors := self.check():
            raise InvalidFields(errors)


def new_id() -> UUID:
    """A UUIDv7: unique without asking anyone, and in order of time."""
    return uuid_utils.compat.uuid7()


def now() -> datetime:
    return datetime.now(UTC)


def milliseconds(since: datetime, until: datetime) -> int:
    """From one time to another; clocks of two nodes make no negative one."""
    return max(0, int((until - since).total_seconds() * 1000))


def time_fault(time: datetime) -> str | None:
    """What is wrong with a time that a client gave, or None."""
    if time.tzinfo is None:
        return "Must have an offset, such as Z"  # Without one it is another moment on each machine.
    try:
        time.astimezone(UTC)
    except OverflowError:
        return "Is out of range"
    return None


def future_fault(time: datetime) -> str | None:
    """What is wrong with a time at which something is to end, or None."""
    return time_fault(time) or ("Must be in the future" if time <= now() else None)


def depth(value: object) -> int:
    """The nesting of lists and objects in a decoded JSON value; a scalar has depth 0."""
    deepest, waiting = 0, [(value, 0)]
    while waiting:
        item, level = waiting.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level + 1)
            waiting.extend((child, level + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


def check_metadata(value: object) -> list[FieldError]:
    """At most 16 KiB encoded and 8 levels deep."""
    if not isinstance(value, dict) or not value:
        return []
    encoded = msgspec.json.encode(value)
    if encoded.count(b"{") + encoded.count(b"[") > METADATA_DEPTH and depth(value) > METADATA_DEPTH:
        return [FieldError("metadata", f"Is nested deeper than {METADATA_DEPTH} levels")]
    if len(encoded) > METADATA_BYTES:
        return [FieldError("metadata", f"Is longer than {METADATA_BYTES} bytes as JSON")]
    return []


def check_content(field: str, value: object) -> list[FieldError]:
    """At most 1 MiB in UTF-8. Content is kept byte for byte, so the bound is on bytes."""
    if isinstance(value, str) and len(value) > CONTENT_BYTES // 4 and len(value.encode()) > CONTENT_BYTES:
        return [FieldError(field, f"Is longer than {CONTENT_BYTES} bytes in UTF-8", value[:200])]
    return []


def merge_patch(target: object, patch: object) -> object:
    """RFC 7396: members of `patch` replace those of `target`, null removes them."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged
