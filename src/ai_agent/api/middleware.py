"""The outer wrapper, which every request passes."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
import uuid_utils
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send, WebSocketScope

from ai_agent.api.cors import Cors
from ai_agent.api.errors import error_body
from ai_agent.api.headers import CONNECTION_CLOSE, header, note_headers
from ai_agent.api.proxies import TrustedProxies
from ai_agent.api.rate_limits import limit_headers
from ai_agent.domain.errors import AIAgentError, InternalError, ServiceUnavailable
from ai_agent.observability import http_metrics
from ai_agent.observability.logging import log_request, note_request
from ai_agent.observability.timing import begin_timing, server_timing

log = structlog.get_logger()

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"referrer-policy", b"no-referrer"),
]
_SECURED = {name for name, _ in _SECURITY_HEADERS}

_STAY_SECURE = (b"strict-transport-security", b"max-age=31536000")


RAW = "raw"
"""Where a socket's scope has the server's own `receive` and `send`."""


class OuterWrapper:
    """Correlation, access log, headers for browsers, time, HEAD. Around routing, so that 404 and 405 pass it too."""

    def __init__(
        self,
        app: ASGIApp,
        proxies: TrustedProxies,
        draining: Callable[[], bool],
        *,
        timing: bool,
        cors: Cors | None = None,
    ):
        self._app = app
        self._proxies = proxies
        self._cors = cors
        self._draining = draining
        self._timing = timing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await self._http(scope, receive, send)
        elif scope["type"] == ScopeType.WEBSOCKET:
            await self._websocket(scope, receive, send)
        else:  # The lifespan's, of which the framework's types know nothing.
            await self._app(scope, receive, send)  # type: ignore[unreachable]

    async def _websocket(self, scope: WebSocketScope, receive: Receive, send: Send) -> None:
        """One line of the log a socket, when it is closed; never its query, which may hold a ticket."""
        started = time.perf_counter()
        note_headers(scope)
        self._proxies.tell(scope)
        scope["correlation_id"] = _correlation_id(scope)  # type: ignore[typeddict-unknown-key]  # ours
        scope[RAW] = receive, send  # type: ignore[literal-required]  # ours
        note_request(scope)
        try:
            await self._app(scope, receive, send)
        finally:
            _log(scope, "WEBSOCKET", scope.get("close_code", 0), started, 0)  # type: ignore[arg-type]  # ours

    async def _http(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        note_headers(scope)
        self._proxies.tell(scope)
        if self._timing:
            begin_timing()
        correlation_id = _correlation_id(scope)
        scope["correlation_id"] = correlation_id  # type: ignore[typeddict-unknown-key]  # ours, read by errors and handlers
        method = scope["method"]
        if method == "HEAD":
            # HEAD works wherever GET does. A copy: the server drops the body by the method in its own scope.
            scope = {**scope, "method": "GET"}
        note_request(scope)
        status, size = 0, 0

        def wrapped(message: Message) -> Awaitable[None]:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                http_metrics.answered(method, _route(scope), status, time.perf_counter() - started)
                leaves = self._draining() and scope["http_version"] < "2"
                added = _headers(scope, started, message["headers"], leaves=leaves)
                if self._cors is not None:
                    added += self._cors.headers(scope, method)
                message["headers"] = [*message["headers"], *added]
            elif message["type"] == "http.response.body":
                size += len(message["body"])
            return send(message)

        try:
            await self._app(scope, receive, wrapped)
        except asyncio.CancelledError:
            if status:
                raise
            await _answer(scope, wrapped, ServiceUnavailable("The server stops"))
        except Exception:
            log.exception("request_crashed")
            if status:
                raise  # The answer has begun; the server closes the connection, and the client sees that it is cut.
            error = InternalError("Something went wrong here; the correlation id finds it in the log")
            await _answer(scope, wrapped, error)
        finally:
            if not status:
                http_metrics.answered(method, _route(scope), status, time.perf_counter() - started)
            _log(scope, method, status, started, size)


async def _answer(scope: HTTPScope, send: Send, error: AIAgentError) -> None:
    body = msgspec.json.encode(error_body(error, scope))
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _correlation_id(scope: Scope) -> str:
    given = header(scope, b"x-correlation-id")
    return given if given is not None and _CORRELATION_ID.fullmatch(given) else uuid_utils.uuid7().hex


def _headers(scope: HTTPScope, started: float, present: Any, *, leaves: bool) -> list[tuple[bytes, bytes]]:
    own = {name for name, _ in present}
    added = [
        (b"x-correlation-id", scope["correlation_id"].encode()),  # type: ignore[typeddict-item]  # ours
        (b"x-process-time", b"%.6f" % (time.perf_counter() - started)),
        *(_SECURITY_HEADERS if own.isdisjoint(_SECURED) else (h for h in _SECURITY_HEADERS if h[0] not in own)),
    ]
    added += limit_headers(scope)
    if scope["scheme"] == "https":
        added.append(_STAY_SECURE)
    if leaves and CONNECTION_CLOSE not in present:  # The next connection leads to another server.
        added.append(CONNECTION_CLOSE)
    if timing := server_timing():
        added.append((b"server-timing", timing.encode()))
    return added


def _route(scope: Scope) -> str:
    return scope.get("path_template") or http_metrics.UNMATCHED


def _log(scope: Scope, method: str, status: int, started: float, size: int) -> None:
    principal: Any = scope.get("caller")
    execution_id = scope.get("path_params", {}).get("execution_id")
    log_request(
        correlation_id=scope["correlation_id"],  # type: ignore[typeddict-item]  # ours
        method=method,
        route=_route(scope),
        status=status,
        duration_ms=round((time.perf_counter() - started) * 1000, 3),
        bytes=size,
        principal=principal.subject if principal else None,
        **({"execution_id": str(execution_id)} if execution_id else {}),
    )
