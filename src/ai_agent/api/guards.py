"""Who may call what: every operation declares its scope, and the application does not start when one does not."""

from collections.abc import Iterable
from typing import Any

from litestar import Litestar
from litestar.routes import HTTPRoute

from ai_agent.domain.errors import AuthorizationError, ConfigurationError
from ai_agent.domain.identity import Principal, Scope

SCOPE = "scope"
METHODS = "methods"
PUBLIC = {SCOPE: None}
"""`opt` of an operation that needs no credentials."""
IDENTIFIED = {SCOPE: ""}
"""`opt` of an operation for everybody with credentials, whatever their scopes."""


def needs(scope: Scope) -> dict[str, Any]:
    """`opt` of an operation that needs a scope: `@get(…, opt=needs(Scope.SESSIONS_READ))`."""
    return {SCOPE: scope}


def check_scope(principal: Principal, scope: str) -> None:
    if scope and not principal.may(scope):
        raise AuthorizationError(f"This needs the scope {scope}", details={"scope": scope})


def require_declared_scopes(app: Litestar) -> None:
    """Raises ConfigurationError when an operation does not say who may call it; notes what OPTIONS answers anybody."""
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if handler.http_methods == {"OPTIONS"}:
                handler.opt[METHODS] = ", ".join(sorted(allowed(route.methods)))
            elif SCOPE not in handler.opt:
                raise ConfigurationError(f"{handler} declares no scope", "Add opt=needs(Scope.…) or opt=PUBLIC")


def allowed(methods: Iterable[str]) -> set[str]:
    """The methods of a path, with HEAD, which works wherever GET does."""
    return {*methods, "HEAD"} if "GET" in methods else set(methods)
