"""The outer wrapper, which every request passes, and authentication, which every route passes."""

import asyncio
import re
import time
from typing import Any

import msgspec
import structlog
import uuid_utils
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from ai_agent.api.acting import acting_for, wanted_owner
from ai_agent.api.errors import error_body
from ai_agent.api.guards import METHODS, SCOPE, check_scope
from ai_agent.api.headers import header, note_headers
from ai_agent.api.proxies import TrustedProxies
from ai_agent.domain.errors import AIAgentError, AuthenticationError, InternalError, ServiceUnavailable
from ai_agent.domain.identity import Principal
from ai_agent.observability.logging import log_request
from ai_agent.observability.timing import begin_timing, server_timing, timed
from ai_agent.services.identity import ANYONE, IdentityService

log = structlog.get_logger()

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"referrer-policy", b"no-referrer"),
]

_STAY_SECURE = (b"strict-transport-security", b"max-age=31536000")


class OuterWrapper:
    """Correlation, access log, security headers, time, HEAD. Around routing, so that 404 and 405 pass it too."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies, *, timing: bool):
        self._app = app
        self._proxies = proxies
        self._timing = timing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        await self._http(scope, receive, send)

    async def _http(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        note_headers(scope)
        self._proxies.tell(scope)
        if self._timing:
            begin_timing()
        correlation_id = _correlation_id(scope)
        scope["correlation_id"] = correlation_id  # type: ignore[typeddict-unknown-key]  # ours, read by errors and handlers
        structlog.contextvars.bind_contextvars(correlation_id=correlation_id)
        method = scope["method"]
        if method == "HEAD":
            # HEAD works wherever GET does. A copy: the server drops the body by the method in its own scope.
            scope = {**scope, "method": "GET"}
        status, size = 0, 0

        async def wrapped(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_headers(scope, started, message["headers"])]
            elif message["type"] == "http.response.body":
                size += len(message["body"])
            await send(message)

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
            _log(scope, method, status, started, size)


async def _answer(scope: HTTPScope, send: Send, error: AIAgentError) -> None:
    body = msgspec.json.encode(error_body(error, scope))
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _correlation_id(scope: HTTPScope) -> str:
    given = header(scope, b"x-correlation-id")
    return given if given is not None and _CORRELATION_ID.fullmatch(given) else uuid_utils.uuid7().hex


def _headers(scope: HTTPScope, started: float, present: Any) -> list[tuple[bytes, bytes]]:
    own = {name for name, _ in present}
    added = [
        (b"x-correlation-id", scope["correlation_id"].encode()),  # type: ignore[typeddict-item]  # ours
        (b"x-process-time", b"%.6f" % (time.perf_counter() - started)),
        *(header for header in _SECURITY_HEADERS if header[0] not in own),
    ]
    if scope["scheme"] == "https":
        added.append(_STAY_SECURE)
    if timing := server_timing():
        added.append((b"server-timing", timing.encode()))
    return added


def _log(scope: HTTPScope, method: str, status: int, started: float, size: int) -> None:
    principal: Principal | None = scope.get("caller")  # type: ignore[assignment]  # ours
    log_request(
        correlation_id=scope["correlation_id"],  # type: ignore[typeddict-item]  # ours
        method=method,
        route=scope.get("path_template") or "unmatched",
        status=status,
        duration_ms=round((time.perf_counter() - started) * 1000, 3),
        bytes=size,
        principal=principal.subject if principal else None,
    )


class Authentication(ASGIMiddleware):
    """Sets `scope["user"]` to the Principal, who has the operation's scope; one whose scope is None needs nobody."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, identity: IdentityService, *, required: bool):
        self._identity = identity
        self._required = required

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        needed = scope["route_handler"].opt.get(SCOPE)
        if needed is not None:
            with timed("auth"):
                principal = await self._principal(scope) if self._required else ANYONE
            structlog.contextvars.bind_contextvars(principal=principal.subject)
            check_scope(principal, needed)
            scope["caller"] = principal  # type: ignore[typeddict-unknown-key]  # ours, for the log
            scope["user"] = acting_for(principal, wanted_owner(scope))
        elif scope.get("method") == "OPTIONS":
            await _tell_methods(scope, send)
            return
        await next_app(scope, receive, send)

    async def _principal(self, scope: Scope) -> Principal:
        scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AuthenticationError
        return self._identity.known(token) or await self._identity.verify(token)


async def _tell_methods(scope: Scope, send: Send) -> None:
    allow = str(scope["route_handler"].opt[METHODS]).encode()
    await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow)]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
