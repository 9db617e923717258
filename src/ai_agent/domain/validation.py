"""Every bad field of a value at once. msgspec stops at the first: this is for the way to an error only."""

from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from ai_agent.domain.errors import FieldError, InvalidFields

T = TypeVar("T")


def read_as(value: Any, kind: type[T], path: str = "") -> T:
    """A decoded value as a Struct. Raises InvalidFields with all that is wrong with it."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, InvalidFields):
        raise InvalidFields(list(field_errors(value, kind, path))) from None


def field_errors(value: Any, kind: Any, path: str = "") -> Iterator[FieldError]:
    """All that is wrong with a decoded value, each with its path in the client's own names."""
    inside = list(_errors_inside(value, kind, path))
    yield from inside
    if not inside:
        try:
            msgspec.convert(value, kind)
        except InvalidFields as error:
            yield from (FieldError(joined(path, e.field), e.message, e.value) for e in error.errors)
        except msgspec.ValidationError as error:
            yield _enum_error(value, kind, path) or field_error(error, path, value)


def _enum_error(value: Any, kind: Any, path: str) -> FieldError | None:
    """A name that is none of an enumeration's: whoever gave it is told all of them."""
    kinds = [one for one in get_args(kind) or (kind,) if isinstance(one, type) and issubclass(one, Enum)]
    names = [str(option.value) for one in kinds for option in one]
    return FieldError(path, f"Must be one of {', '.join(names)}", value) if names and path else None


def _errors_inside(value: Any, kind: Any, path: str) -> Iterator[FieldError]:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    struct = _struct_in(kind)
    if struct is not None and isinstance(value, dict):
        yield from _struct_errors(value, struct, path)
    elif get_origin(kind) is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from field_errors(item, get_args(kind)[0], f"{path}[{index}]")


def _struct_errors(value: dict[str, Any], struct: type[msgspec.Struct], path: str) -> Iterator[FieldError]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name in value:
        if name not in fields:
            yield FieldError(joined(path, name), "Is not a field of this object")
    for name, field in fields.items():
        if name in value:
            yield from field_errors(value[name], field.type, joined(path, name))
        elif field.required:
            yield FieldError(joined(path, name), "Is required")


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    structs = [option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)]
    return structs[0] if len(structs) == 1 else None


def field_error(error: Exception, path: str = "", value: Any = None) -> FieldError:
    message, _, inner = str(error).partition(" - at `$")
    return FieldError(joined(path, inner.rstrip("`").lstrip(".").replace("[...]", "")) or "body", message, value)


def joined(path: str, name: str) -> str:
    separator = "." if path and name and not name.startswith("[") else ""
    return f"{path}{separator}{name}"
