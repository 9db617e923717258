"""Which pages of other origins may read answers. Source: WHATWG, "Fetch", section 3.2.

No cookies are used, so none are allowed: a page shows its key or token itself.
"""

from collections.abc import Set

from litestar.types import Scope

from ai_agent.api.headers import header
from ai_agent.domain.origins import Origin, parse_origin

ANY = "*"
PREFLIGHT_SECONDS = 600

_SENT = (
    "Accept, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer, "
    "Traceparent, Tracestate, X-Correlation-ID"
)
_READ = (
    "Allow, Content-Location, ETag, Idempotency-Replayed, Link, Location, RateLimit, RateLimit-Policy, Retry-After, "
    "X-Correlation-ID, X-Process-Time, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
_VARY = (b"vary", b"Origin")
_EXPOSED = (b"access-control-expose-headers", _READ.encode())
_PREFLIGHT = [
    (b"access-control-allow-methods", b"DELETE, GET, HEAD, PATCH, POST, PUT"),
    (b"access-control-allow-headers", _SENT.encode()),
    (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
]


class Cors:
    """`listed` are the origins of pages that may; None is any."""

    def __init__(self, listed: Set[Origin] | None):
        self._listed = listed

    def headers(self, scope: Scope, method: str) -> list[tuple[bytes, bytes]]:
        """What an answer says to the browser; also an error, which a page could not read otherwise."""
        origin = header(scope, b"origin")
        if origin is None or not self._may(origin):
            return [_VARY]
        told = [(b"access-control-allow-origin", origin.encode("latin-1")), _VARY, _EXPOSED]
        if method == "OPTIONS" and header(scope, b"access-control-request-method") is not None:
            told += _PREFLIGHT
        return told

    def _may(self, origin: str) -> bool:
        if self._listed is None:
            return True
        try:
            return parse_origin(origin) in self._listed
        except ValueError:
            return False
