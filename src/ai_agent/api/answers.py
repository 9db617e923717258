"""Answers: JSON or MessagePack, whichever the client prefers; a resource with its entity tag, and 304 for who has it.

Source: RFC 9110, "HTTP Semantics", sections 8.8.3 (ETag), 12.5.1 (Accept) and 13.1 (preconditions).
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive, Scope, Send

from ai_agent.api.headers import header
from ai_agent.domain.fields import packed_json
from ai_agent.domain.resources import Resource, Versions

JSON = "application/json"
MESSAGEPACK = "application/x-msgpack"

_T = TypeVar("_T")

_QUALITY = re.compile(r";\s*q=([0-9.]+)")
_TAG = re.compile(r'(?:W/)?"[^"]*"')
_PACKED = "-msgpack"
"""Ends the tag of a MessagePack representation: strong tags differ where the bytes do."""

_encode = msgspec.json.Encoder().encode


class Answer(Response[_T]):
    """Set once for the application: every value that a handler returns becomes one of these."""

    __slots__ = ()

    def __init__(
        self,
        content: _T,
        *,
        status_code: int | None = None,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        **_: Any,
    ):
        self.content = content
        self.status_code = status_code
        self.headers = dict(headers) if headers else {}
        self.media_type = media_type

    def to_asgi_response(  # type: ignore[override]  # a lean one, that answers what it is called with
        self, app: None, request: Request[Any, Any, Any], *, status_code: int | None = None, **_: Any
    ) -> "_Messages":
        status = self.status_code or status_code or 200
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        if self.content is None:
            return _Messages(status, headers, b"")
        headers.append((b"vary", b"Accept"))
        packed = prefers_messagepack(request.scope)
        if isinstance(self.content, Resource):
            tag = f'"{self.content.row_version}{_PACKED if packed else ""}"'
            headers.append((b"etag", tag.encode()))
            if request.method == "GET" and _has(request.scope, tag):
                return _Messages(304, headers, b"")
        body = _encode(self.content)
        media_type = self.media_type or JSON
        if packed:
            body, media_type = packed_json(body), MESSAGEPACK
        headers.append((b"content-type", media_type.encode()))
        headers.append((b"content-length", b"%d" % len(body)))
        return _Messages(status, headers, body)


class _Messages:
    """The two messages of an answer that is whole."""

    __slots__ = ("_body", "_start")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes):
        self._start: HTTPResponseStartEvent = {"type": "http.response.start", "status": status, "headers": headers}
        self._body: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(self._start)
        await send(self._body)


def prefers_messagepack(scope: Scope) -> bool:
    """Whether the client asks for MessagePack, and for JSON less."""
    accept = header(scope, b"accept") or ""
    return MESSAGEPACK in accept and _quality(accept, MESSAGEPACK) > _quality(accept, JSON)


def _quality(accept: str, media_type: str) -> float:
    for part in accept.split(","):
        name, _, parameters = part.partition(";")
        if name.strip().lower() == media_type:
            found = _QUALITY.search(f";{parameters}")
            return float(found[1]) if found and found[1].count(".") < 2 and found[1] != "." else 1.0
    return 0.0


def _has(scope: Scope, tag: str) -> bool:
    """Whether the client's `If-None-Match` names this state. Compared weakly, as RFC 9110 asks."""
    tags = header(scope, b"if-none-match")
    return tags is not None and (tags.strip() == "*" or tag in (t.removeprefix("W/") for t in _TAG.findall(tags)))


def expected(request: Request[Any, Any, Any]) -> Versions | None:
    """The versions in `If-Match`, of either representation; None without one, or for `*`."""
    tags = header(request.scope, b"if-match")
    if tags is None or tags.strip() == "*":
        return None
    # Weak tags never match here.
    strong = [tag[1:-1].removesuffix(_PACKED) for tag in _TAG.findall(tags) if tag.startswith('"')]
    return frozenset(int(tag) for tag in strong if tag.isascii() and tag.isdigit() and len(tag) < 10)
