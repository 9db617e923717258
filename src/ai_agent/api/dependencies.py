"""What handlers are given."""

from typing import Any

from litestar import Request
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import ClientException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Empty

from ai_agent.api.headers import header
from ai_agent.domain.audit import Actor
from ai_agent.domain.identity import BUILT_IN, Principal

ANONYMOUS = f"{BUILT_IN}anonymous"


class Caller(Request[Principal, None, State]):
    """A request whose `user` is the authenticated Principal."""

    async def body(self) -> bytes:
        """The whole body, read once. Litestar's own costs three times as much, for it looks at every header.

        Raises RequestEntityTooLarge, ClientException when the client leaves.
        """
        kept = self._connection_state
        if kept.body is Empty:
            kept.body = await self._read()
        return kept.body

    async def _read(self) -> bytes:
        limit = self.route_handler.resolve_request_max_body_size() or 0
        announced = header(self.scope, b"content-length") or ""
        if announced.isdigit() and int(announced) > limit:
            raise RequestEntityTooLarge
        pieces, size, more = [], 0, True
        while more:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientException("The client disconnected")
            pieces.append(message["body"])
            size += len(message["body"])
            if size > limit:
                raise RequestEntityTooLarge
            more = message["more_body"]
        return b"".join(pieces)


def actor(request: Caller) -> Actor:
    """The caller as the audit log names it."""
    scope: dict[str, Any] = request.scope  # type: ignore[assignment]  # with what the outer wrapper has put there
    principal: Principal | None = scope.get("user")
    return Actor(
        name=principal.subject if principal else ANONYMOUS,
        key_id=principal.key_id if principal else None,
        address=scope["client_address"],
        correlation_id=scope["correlation_id"],
    )


def given(value: Any) -> Provide:
    """A dependency that is always the same object."""
    return Provide(lambda: value, sync_to_thread=False, use_cache=True)
