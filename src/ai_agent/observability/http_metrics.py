"""What `/metrics` tells of HTTP requests, by the template of their route; sockets have families of their own."""

from collections.abc import Callable
from functools import cache

from prometheus_client import Counter, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

UNMATCHED = "unmatched"
"""The route of a path that there is not."""

REQUESTS = Counter(
    "ai_agent_http_requests",
    "Requests whose answer began, by method, template of the route and status; 0: no answer began",
    ["method", "route", "status"],
)
DURATION = Histogram(
    "ai_agent_http_request_duration_seconds",
    "From the request to the beginning of its answer, which of a stream is before its first event",
    ["method", "route"],
    buckets=_SECONDS,
)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Counts a request, in 3 µs."""
    count, observe = _children(method if method in _METHODS else "other", route, status)
    count()
    observe(seconds)


@cache  # As many as there are routes, methods and statuses. Looking them up in the library costs 5 µs more.
def _children(method: str, route: str, status: int) -> tuple[Callable[[], None], Callable[[float], None]]:
    return REQUESTS.labels(method, route, str(status)).inc, DURATION.labels(method, route).observe
