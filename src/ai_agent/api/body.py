"""Request bodies: bytes to a Struct in one step, and on the way of errors every bad field at once.

A DTO is Litestar's place for this: it is given the raw bytes, and leaves the handler's signature as it is.
"""

import re
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec
from litestar.connection import ASGIConnection
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.typing import FieldDefinition

from ai_agent.domain.errors import FieldError, InvalidFields, MalformedRequest, UnsupportedMediaType
from ai_agent.domain.fields import depth

T = TypeVar("T")

MAX_DEPTH = 64
VALUE_LENGTH = 200

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SECRET = re.compile(r"secret|token|password|api_key|authorization", re.IGNORECASE)


class JSONStruct(AbstractDTO[T], Generic[T]):
    """Decodes a JSON body into the handler's Struct."""

    def decode_bytes(self, value: bytes) -> Any:
        _check_media_type(self.asgi_connection)
        return decode(value, self.model_type)

    def decode_builtins(self, value: dict[str, Any]) -> Any:  # form data: refused whatever it holds
        raise UnsupportedMediaType("Send application/json")

    def data_to_encodable_type(self, data: Any) -> Any:
        return data

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        """Nothing is generated: msgspec knows the Struct."""

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Iterator[DTOFieldDefinition]:  # type: ignore[override]
        return iter(())

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        return False


def _check_media_type(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    media_type = connection.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(f"{media_type[:100]} is not understood; send application/json")


_decoder: Any = cache(msgspec.json.Decoder)


def decode(body: bytes, model: type[Any]) -> Any:
    """Raises MalformedRequest for what is not JSON, InvalidFields with every bad field for what is."""
    if not body:
        raise MalformedRequest("A JSON body is required")
    _check_depth(body)
    if b"\\u0000" in body:
        _check_nul(body)
    try:
        return _decoder(model).decode(body)
    except (msgspec.ValidationError, InvalidFields) as error:
        raise InvalidFields(_all_errors(msgspec.json.decode(body), model, error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"The body is not JSON: {error}") from None


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    level = 0
    for byte in _STRINGS.sub(b"", body):
        if byte in b"[{":
            level += 1
            if level > MAX_DEPTH:
                raise MalformedRequest(f"The body is nested deeper than {MAX_DEPTH} levels")
        elif byte in b"]}":
            level -= 1


def _check_nul(body: bytes) -> None:
    try:
        errors = list(_nul_errors(msgspec.json.decode(body), ""))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # The decoder says better what is wrong.
    if errors:
        raise InvalidFields(errors)


def _nul_errors(value: Any, path: str) -> Iterator[FieldError]:
    if isinstance(value, str) and "\0" in value:
        yield FieldError(path, "Must not contain NUL characters")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _nul_errors(item, f"{path}.{key}" if path else key)
            if "\0" in key:
                yield FieldError(path or "body", "Must not contain NUL characters in names")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nul_errors(item, f"{path}[{index}]")


def _all_errors(value: Any, model: Any, error: Exception) -> list[FieldError]:
    """msgspec stops at the first error: only now, on the way to an error, each field is looked at alone."""
    found = list(_errors(value, model, ""))
    if found:
        return found
    if isinstance(error, InvalidFields):
        return error.errors
    message, _, path = str(error).partition(" - at `$")
    return [FieldError(path.rstrip("`").lstrip("."), message)]


def _errors(value: Any, kind: Any, path: str) -> Iterator[FieldError]:
    struct = _struct_in(kind)
    if struct is not None and isinstance(value, dict):
        yield from _struct_errors(value, struct, path)
        return
    try:
        msgspec.convert(value, kind)
    except InvalidFields as error:
        for inner in error.errors:
            yield FieldError(_join(path, inner.field), inner.message, inner.value)
    except msgspec.ValidationError as error:
        message, _, inner_path = str(error).partition(" - at `$")
        yield FieldError(path + inner_path.rstrip("`"), message, _shown(path, value))


def _struct_errors(value: dict[str, Any], struct: type[msgspec.Struct], path: str) -> Iterator[FieldError]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    found = False
    for name in value.keys() - fields.keys():
        found = True
        yield FieldError(_join(path, name[:VALUE_LENGTH]), "Is not a field of this object")
    for name, field in fields.items():
        if name in value:
            inner = list(_errors(value[name], field.type, _join(path, name)))
            found = found or bool(inner)
            yield from inner
        elif field.required:
            found = True
            yield FieldError(_join(path, name), "Is required")
    if not found:
        try:
            msgspec.convert(value, struct)
        except InvalidFields as error:
            for checked in error.errors:
                yield FieldError(_join(path, checked.field), checked.message, _shown(checked.field, checked.value))


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    structs = [option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)]
    return structs[0] if len(structs) == 1 else None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _shown(path: str, value: Any) -> Any:
    """The start of a value, never a secret."""
    if _SECRET.search(path):
        return None
    if isinstance(value, str):
        return value[:VALUE_LENGTH]
    if isinstance(value, dict | list):
        return None if depth(value) > 8 else msgspec.json.encode(value)[:VALUE_LENGTH].decode(errors="ignore")
    return value
