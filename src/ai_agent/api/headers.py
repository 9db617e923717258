"""A request's headers, by name: looked up several times, made once."""

from litestar.types import HTTPScope, Scope

_HEADERS = "headers_by_name"


def note_headers(scope: HTTPScope) -> None:
    """Of a header that is given twice the last one counts."""
    scope[_HEADERS] = dict(scope["headers"])  # type: ignore[literal-required]  # ours


def header(scope: Scope, name: bytes) -> str | None:
    """A header of a request, by its name in small letters."""
    value: bytes | None = scope[_HEADERS].get(name)  # type: ignore[literal-required]  # ours
    return None if value is None else value.decode("latin-1")
