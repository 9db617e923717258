"""Query parameters that an operation does not know, and text that no database stores, are refused."""

from litestar import Litestar, Request
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Receive, Scope, Send

from ai_agent.domain.errors import FieldError, InvalidFields

KNOWN = "query_parameters"


def declare_parameters(app: Litestar) -> None:
    """Notes in the `opt` of each operation the names of its query parameters."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler, model in route.route_handler_map.values():
                handler.opt[KNOWN] = frozenset(parameter.field_alias for parameter in model.expected_query_params)


class StrictParameters(ASGIMiddleware):
    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        if scope["query_string"]:
            _check(scope)
        await next_app(scope, receive, send)


def _check(scope: Scope) -> None:
    known = scope["route_handler"].opt.get(KNOWN, frozenset())
    errors = []
    for name, value in Request(scope).query_params.multi_items():
        if name not in known:
            errors.append(FieldError(name, "Is not a parameter of this operation", value))
        elif isinstance(value, str) and "\0" in value:
            errors.append(FieldError(name, "Must not contain NUL characters"))
    if errors:
        raise InvalidFields(errors)
