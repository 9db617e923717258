"""Middleware without what Litestar's own asks at every request, and what for us never changes: 2 µs a layer."""

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send


class LeanMiddleware(ASGIMiddleware):
    """For HTTP, on every route."""

    scopes = (ScopeType.HTTP,)

    def __call__(self, app: ASGIApp) -> ASGIApp:
        handle = self.handle

        def middleware(scope: Scope, receive: Receive, send: Send) -> object:
            if scope["type"] != ScopeType.HTTP:
                return app(scope, receive, send)
            return handle(scope, receive, send, app)

        return middleware  # type: ignore[return-value]  # what it returns is awaited
