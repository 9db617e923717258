"""Query parameters: those that all lists share, and a check that refuses what an operation does not know."""

import re
from datetime import datetime
from typing import Annotated, Literal, NamedTuple, get_args

from litestar import Litestar
from litestar._parsers import parse_query_string
from litestar.params import FromQuery, QueryParameter
from litestar.routes import HTTPRoute
from litestar.types import Empty, Scope
from litestar.typing import FieldDefinition
from litestar.utils.scope.state import ScopeState

from ai_agent.api.acting import OWNER, reads_owned
from ai_agent.domain.errors import FieldError, InvalidFields

# Litestar enforces the bounds of its own marker, and ignores those of msgspec.
Limit = Annotated[int, QueryParameter(ge=1, le=100, description="Items on a page")]
LongLimit = Annotated[int, QueryParameter(ge=1, le=200, description="Items on a page")]
Offset = Annotated[int, QueryParameter(ge=0, le=10_000, description="Items to skip; beyond 10000 use the cursor")]
Cursor = FromQuery[str | None]
SortOrder = FromQuery[Literal["asc", "desc"]]

KNOWN = "query_parameters"

_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE)


class Known(NamedTuple):
    repeatable: bool
    types: frozenset[type]


def declare_parameters(app: Litestar) -> None:
    """Notes in the `opt` of each operation the names of its query parameters, and what may be given for them."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, model) in route.route_handler_map.items():
                fields = handler.parsed_fn_signature.parameters
                handler.opt[KNOWN] = {
                    p.field_alias: Known(p.is_sequence, _types(fields[p.field_name]))
                    for p in model.expected_query_params
                }
                if reads_owned(method, handler.opt):
                    handler.opt[KNOWN][OWNER] = Known(False, frozenset({str}))


def _types(field: FieldDefinition) -> frozenset[type]:
    return frozenset((field.annotation, *get_args(field.annotation)))


def check_parameters(scope: Scope) -> None:
    """Raises InvalidFields for parameters that are unknown or given twice, and for text that no database stores."""
    if not scope["query_string"]:
        return
    known: dict[str, Known] = scope["route_handler"].opt.get(KNOWN, {})
    seen, errors = set(), []
    state = ScopeState.from_scope(scope)
    if state.parsed_query is Empty:
        state.parsed_query = parse_query_string(scope["query_string"])  # Litestar takes it from there.
    for name, value in state.parsed_query:
        if name not in known:
            errors.append(FieldError(name, "Is not a parameter of this operation", value))
        elif name in seen and not known[name].repeatable:
            errors.append(FieldError(name, "Is given more than once", value))
        elif "\0" in value:
            errors.append(FieldError(name, "Must not contain NUL characters"))
        elif fault := _misread(value, known[name].types):
            errors.append(FieldError(name, fault, value))
        seen.add(name)
    if errors:
        raise InvalidFields(errors)


def _misread(value: str, types: frozenset[type]) -> str | None:
    """What is wrong with a value that Litestar would take for another: "null" for none, a number for a time."""
    if value.lower() == "null" and str not in types:
        return "Must not be null"
    if datetime in types and _NUMBER.fullmatch(value):
        return "Must be a time as RFC 3339 has it"
    return None
