"""A request's headers, by name: looked up several times, made once."""

from litestar.types import Scope

CONNECTION_CLOSE = (b"connection", b"close")
"""Of an answer: the client's next request needs another connection. HTTP/1.x only."""

_HEADERS = "headers_by_name"


def note_headers(scope: Scope) -> None:
    """A header that is given twice is a list. Source: RFC 9110, section 5.3."""
    given = list(scope["headers"])
    headers = dict(given)
    if len(headers) < len(given):
        headers = {name: b", ".join(value for other, value in given if other == name) for name in headers}
    scope[_HEADERS] = headers  # type: ignore[literal-required]  # ours


def header(scope: Scope, name: bytes) -> str | None:
    """A header of a request, by its name in small letters."""
    value: bytes | None = scope[_HEADERS].get(name)  # type: ignore[literal-required]  # ours
    return None if value is None else value.decode("latin-1")


def bearer_token(scope: Scope) -> str | None:
    """The token of `Authorization`: an empty one, as bad as any, under another scheme, and None without the header."""
    credentials = header(scope, b"authorization")
    if credentials is None:
        return None
    scheme, _, token = credentials.partition(" ")
    return token if scheme.lower() == "bearer" else ""
