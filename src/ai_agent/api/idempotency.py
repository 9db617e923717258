"""`Idempotency-Key` on every POST.

A repeat is given the stored answer, unless the operation's `opt` is ATTACHES: then its service takes the key, because
what it starts outlives the request, and a repeat attaches to that; or because its answer is a secret, which is never
stored, and a repeat is refused. LEASED is for what takes long: its key is committed before it begins.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from ai_agent.api.dependencies import Caller
from ai_agent.api.headers import header
from ai_agent.api.lean import LeanMiddleware
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.services.idempotency import IdempotencyService, KeptAnswer

ATTACHES = {"idempotency": "attaches"}
LEASED = {"idempotency": "leased"}
ONCE = {"idempotency": "once"}
"""`opt` of an operation whose answer is a secret: a repeat is refused."""

Once = Callable[[str, IdempotencyKey, Callable[[], Awaitable[KeptAnswer]]], Awaitable[KeptAnswer]]

_KEY = "idempotency_key"
_REPLAYED = (b"idempotency-replayed", b"true")


class Idempotency(LeanMiddleware):
    def __init__(self, service: IdempotencyService):
        self._service = service

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        text = header(scope, b"idempotency-key") if scope.get("method") == "POST" else None
        how = scope["route_handler"].opt.get("idempotency")
        if text is None or not (how or scope.get("user")):
            await next_app(scope, receive, send)
            return
        key = await _key_of(scope, receive, text)
        scope[_KEY] = key  # type: ignore[literal-required]  # ours
        if how in (None, "leased"):
            once = self._service.once_leased if how else self._service.once
            await self._answer_once(once, key, scope, receive, send, next_app)
        else:
            await next_app(scope, receive, _marking(key, send))

    async def _answer_once(
        self, once: Once, key: IdempotencyKey, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp
    ) -> None:
        async def answer() -> KeptAnswer:
            captured = _Captured()
            await next_app(scope, receive, captured.take)
            return captured.answer()

        kept = await once(scope["user"].subject, key, answer)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in kept.headers.items()]
        await _marking(key, send)({"type": "http.response.start", "status": kept.status, "headers": headers})
        await send({"type": "http.response.body", "body": kept.body, "more_body": False})


def idempotency_key(request: Request[Any, Any, Any]) -> IdempotencyKey | None:
    """The key of a request to an operation that ATTACHES, or is LEASED."""
    key: IdempotencyKey | None = request.scope.get(_KEY)  # type: ignore[assignment]  # ours
    return key


async def _key_of(scope: Scope, receive: Receive, text: str) -> IdempotencyKey:
    # Kept by Litestar for the handler's own request.
    body = await Caller(scope, receive).body()
    digest = hashlib.sha256(scope["query_string"] + b"\n" + body).hexdigest()
    return IdempotencyKey(scope["path"].rstrip("/"), text, digest)


def _marking(key: IdempotencyKey, send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start" and key.replayed:
            message["headers"] = [*message["headers"], _REPLAYED]
        await send(message)

    return marked


class _Captured:
    """An answer that is held back until its transaction is committed."""

    def __init__(self) -> None:
        self._status = 500
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            self._body += message["body"]

    def answer(self) -> KeptAnswer:
        return KeptAnswer(self._status, self._headers, bytes(self._body))
