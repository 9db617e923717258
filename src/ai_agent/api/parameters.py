"""Query parameters: those that all lists share, and a guard that refuses what an operation does not know."""

from typing import Annotated, Literal

from litestar import Litestar, Request
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.params import FromQuery, QueryParameter
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Receive, Scope, Send

from ai_agent.domain.errors import FieldError, InvalidFields

# Litestar enforces the bounds of its own marker, and ignores those of msgspec.
Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Items on a page")]
LongLimit = Annotated[int, QueryParameter(ge=1, le=200, description="Items on a page")]
Offset = Annotated[int, QueryParameter(ge=0, le=10_000, description="Items to skip; beyond 10000 use the cursor")]
Cursor = FromQuery[str | None]
SortOrder = FromQuery[Literal["asc", "desc"]]

Search = Annotated[
    str | None, QueryParameter(min_length=2, max_length=200, description="Text to find, whatever its case")
]

KNOWN = "query_parameters"


def declare_parameters(app: Litestar) -> None:
    """Notes in the `opt` of each operation the names of its query parameters, and whether they may be repeated."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler, model in route.route_handler_map.values():
                handler.opt[KNOWN] = {p.field_alias: p.is_sequence for p in model.expected_query_params}


class StrictParameters(ASGIMiddleware):
    """Refuses parameters that are unknown or given twice, and text that no database stores."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        if scope["query_string"]:
            _check(scope)
        await next_app(scope, receive, send)


def _check(scope: Scope) -> None:
    known: dict[str, bool] = scope["route_handler"].opt.get(KNOWN, {})
    seen, errors = set(), []
    for name, value in Request(scope).query_params.multi_items():
        if name not in known:
            errors.append(FieldError(name, "Is not a parameter of this operation", value))
        elif name in seen and not known[name]:
            errors.append(FieldError(name, "Is given more than once", value))
        elif isinstance(value, str) and "\0" in value:
            errors.append(FieldError(name, "Must not contain NUL characters"))
        seen.add(name)
    if errors:
        raise InvalidFields(errors)
