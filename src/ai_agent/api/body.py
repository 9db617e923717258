"""Request bodies: bytes to a Struct in one step, and on the way of errors every bad field at once.

A DTO is Litestar's place for this: it is given the raw bytes, and leaves the handler's signature as it is.
"""

import re
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

import msgspec
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.typing import FieldDefinition

from ai_agent.domain.errors import FieldError, InvalidFields, MalformedRequest, UnsupportedMediaType

MAX_DEPTH = 64

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
        cls._types[handler_id] = field_definition.annotation

    def decode_bytes(self, value: bytes) -> Any:
        _check_media_type(self.asgi_connection.headers.get("content-type"))
        return decode(value, self._types[self.asgi_connection.route_handler.handler_id])

    def decode_builtins(self, value: dict[str, Any]) -> Any:
        raise UnsupportedMediaType("Send application/json")

    def data_to_encodable_type(self, data: Any) -> Any:
        return data

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Iterator[DTOFieldDefinition]:  # type: ignore[override]  # the base yields what we never make
        return iter(())

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        return False


def _check_media_type(content_type: str | None) -> None:
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(f"{media_type[:100]} is not understood; send application/json")


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
            yield from _nul_errors(item, _join(path, name))
            if "\0" in name:
                yield FieldError(path, "Must not contain NUL characters in names")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nul_errors(item, f"{path}[{index}]")


def _all_errors(body: bytes, model: Any, error: msgspec.ValidationError | InvalidFields) -> list[FieldError]:
    """msgspec stops at the first error: only now, on the way to an error, each field is looked at alone."""
    try:
        return list(_errors(msgspec.json.decode(body), model, ""))
    except msgspec.ValidationError:  # A number that no type holds.
        return [_field_error(error, "")]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:  # Behind the first wrong type.
        raise MalformedRequest(f"The body is not JSON: {broken}") from None


def _errors(value: Any, kind: Any, path: str) -> Iterator[FieldError]:
    inside = list(_errors_inside(value, kind, path))
    yield from inside
    if not inside:
        try:
            msgspec.convert(value, kind)
        except InvalidFields as error:
            yield from (FieldError(_join(path, e.field), e.message, e.value) for e in error.errors)
        except msgspec.ValidationError as error:
            yield _field_error(error, path, value)


def _errors_inside(value: Any, kind: Any, path: str) -> Iterator[FieldError]:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    struct = _struct_in(kind)
    if struct is not None and isinstance(value, dict):
        yield from _struct_errors(value, struct, path)
    elif get_origin(kind) is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _errors(item, get_args(kind)[0], f"{path}[{index}]")


def _struct_errors(value: dict[str, Any], struct: type[msgspec.Struct], path: str) -> Iterator[FieldError]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name in value:
        if name not in fields:
            yield FieldError(_join(path, name), "Is not a field of this object")
    for name, field in fields.items():
        if name in value:
            yield from _errors(value[name], field.type, _join(path, name))
        elif field.required:
            yield FieldError(_join(path, name), "Is required")


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    structs = [option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)]
    return structs[0] if len(structs) == 1 else None


def _field_error(error: Exception, path: str, value: Any = None) -> FieldError:
    message, _, inner = str(error).partition(" - at `$")
    return FieldError(_join(path, inner.rstrip("`").lstrip(".")) or "body", message, value)


def _join(path: str, name: str) -> str:
    separator = "." if path and name and not name.startswith("[") else ""
    return f"{path}{separator}{name}"
