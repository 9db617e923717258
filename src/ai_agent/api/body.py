"""Request bodies, JSON or MessagePack: bytes to a Struct in one step, and on the way of errors every bad field at once.

A DTO is Litestar's place for this: it is given the raw bytes, and leaves the handler's signature as it is.
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar

import msgspec
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.typing import FieldDefinition

from ai_agent.api.answers import JSON, MESSAGEPACK
from ai_agent.api.headers import header
from ai_agent.domain.errors import FieldError, InvalidFields, MalformedRequest, UnsupportedMediaType
from ai_agent.domain.fields import MAX_DEPTH
from ai_agent.domain.validation import field_error, field_errors, joined

# Also one without an end, in linear time.
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


class BodyDecoder(AbstractDTO[Any]):
    """Decodes the body of every operation into the type of its `data`; set once, for the whole application."""

    _types: ClassVar[dict[str, Any]] = {}

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        # Litestar parts a type from the bounds around it.
        bounds = [one for one in field_definition.metadata if isinstance(one, msgspec.Meta)]
        annotation = field_definition.annotation
        cls._types[handler_id] = Annotated[(annotation, *bounds)] if bounds else annotation

    def decode_bytes(self, value: bytes) -> Any:
        if is_messagepack(header(self.asgi_connection.scope, b"content-type")):
            value = as_json(value)
        return decode(value, self._types[self.asgi_connection.route_handler.handler_id])

    def decode_builtins(self, value: dict[str, Any]) -> Any:
        raise UnsupportedMediaType(f"Send {JSON}")

    def data_to_encodable_type(self, data: Any) -> Any:
        return data

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Iterator[DTOFieldDefinition]:  # type: ignore[override]  # the base yields what we never make
        return iter(())

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        return False


def is_messagepack(content_type: str | None) -> bool:
    """Whether a body of this media type is MessagePack and not JSON. Raises UnsupportedMediaType for anything else."""
    media_type = (content_type or JSON).partition(";")[0].strip().lower()
    if media_type == JSON or media_type.endswith("+json"):
        return False
    if media_type == MESSAGEPACK:
        return True
    raise UnsupportedMediaType(f"{media_type[:100]} is not understood; send {JSON}")


def as_json(packed: bytes) -> bytes:
    """MessagePack as JSON of the same value: one decoder checks both. Raises MalformedRequest."""
    try:
        value = msgspec.msgpack.decode(packed)
        _check_expressible(value)
        return msgspec.json.encode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError, ValueError) as error:
        raise MalformedRequest(f"The body is not MessagePack of what JSON can say: {error}") from None


def _check_expressible(value: Any) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
            if not all(isinstance(name, str) for name in item):
                raise TypeError("a name is not a string")
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, bytes):
            raise TypeError("binary data is not known")
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("a number is not finite")


_decoder: Any = cache(msgspec.json.Decoder)


def decode(body: bytes, model: Any) -> Any:
    """Raises MalformedRequest for what is not JSON, InvalidFields with every bad field for what is."""
    _check_depth(body)
    try:
        decoded = _decoder(model).decode(body)
    except (msgspec.ValidationError, InvalidFields) as error:
        raise InvalidFields(_all_errors(body, model, error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"The body is not JSON: {error}") from None
    # PostgreSQL stores no NUL; JSON can spell it in one way only.
    if b"\\u0000" in body and (errors := list(_nul_errors(msgspec.json.decode(body), ""))):
        raise InvalidFields(errors)
    return decoded


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRINGS.sub(b"", body).translate(_AS_SQUARE, delete=_OTHERS)
    for _ in range(MAX_DEPTH):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            return  # Empty, or not balanced: the decoder says better what is wrong.
        brackets = inner
    if brackets:
        raise MalformedRequest(f"The body is nested deeper than {MAX_DEPTH} levels")


def _nul_errors(value: Any, path: str) -> Iterator[FieldError]:
    if isinstance(value, str) and "\0" in value:
        yield FieldError(path, "Must not contain NUL characters")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _nul_errors(item, joined(path, name))
            if "\0" in name:
                yield FieldError(path, "Must not contain NUL characters in names")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nul_errors(item, f"{path}[{index}]")


def _all_errors(body: bytes, model: Any, error: msgspec.ValidationError | InvalidFields) -> list[FieldError]:
    """msgspec stops at the first error: only now, on the way to an error, each field is looked at alone."""
    try:
        return list(field_errors(msgspec.json.decode(body), model))
    except msgspec.ValidationError:  # A number that no type holds.
        return [field_error(error)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:  # Behind the first wrong type.
        raise MalformedRequest(f"The body is not JSON: {broken}") from None
