"""Who may call what: every operation declares its scope, and the application does not start when one does not."""

from typing import Any

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.routes import HTTPRoute

from ai_agent.domain.errors import AuthorizationError, ConfigurationError
from ai_agent.domain.identity import Principal, Scope

SCOPE = "scope"
PUBLIC = {SCOPE: None}
"""`opt` of an operation that needs no credentials."""


def needs(scope: Scope) -> dict[str, Any]:
    """`opt` of an operation that needs a scope: `@get(…, opt=needs(Scope.SESSIONS_READ))`."""
    return {SCOPE: scope}


def check_scope(connection: ASGIConnection[Any, Principal, Any, Any], handler: BaseRouteHandler) -> None:
    scope = handler.opt.get(SCOPE)
    if scope is not None and not connection.user.may(scope):
        raise AuthorizationError(f"This needs the scope {scope}", details={"scope": scope})


def require_declared_scopes(app: Litestar) -> None:
    """Raises ConfigurationError when an operation does not say who may call it."""
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for handler in route.route_handlers:
            if _is_ours(handler) and SCOPE not in handler.opt:
                raise ConfigurationError(f"{handler} declares no scope", "Add opt=needs(Scope.…) or opt=PUBLIC")


def _is_ours(handler: HTTPRouteHandler) -> bool:
    return handler.http_methods != {"OPTIONS"}
