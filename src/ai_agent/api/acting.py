"""`?owner_id=`: who has the scope `admin` reads what is another owner's."""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request
from litestar.types import Scope as Connection

from ai_agent.api.guards import SCOPE
from ai_agent.domain.errors import AuthorizationError, FieldError, InvalidFields
from ai_agent.domain.identity import Principal, Scope

OWNER = "owner_id"
MAX_LENGTH = 255


def reads_owned(method: str, opt: Mapping[str, Any]) -> bool:
    """Whether an operation only reads, and what it reads belongs to somebody: those take `owner_id`."""
    return method == "GET" and opt.get(SCOPE) not in {None, "", Scope.ADMIN}


def wanted_owner(scope: Connection) -> str | None:
    """The `owner_id` of a request to an operation that takes it. Raises InvalidFields."""
    query = scope["query_string"]
    # Most have none, and are not parsed for it; a name may be escaped.
    if b"owner_id" not in query and b"%" not in query:
        return None
    if not reads_owned(scope["method"], scope["route_handler"].opt):  # type: ignore[typeddict-item]  # of HTTP
        return None
    owner: str | None = Request[Any, Any, Any](scope).query_params.get(OWNER)
    if owner is not None and not 0 < len(owner) <= MAX_LENGTH:
        raise InvalidFields([FieldError(OWNER, f"Must have 1 to {MAX_LENGTH} characters", owner)])
    return owner


def acting_for(principal: Principal, owner: str | None) -> Principal:
    """The principal in an owner's place. Raises AuthorizationError for another owner without the scope `admin`."""
    if owner is None or owner == principal.subject:
        return principal
    if not principal.may(Scope.ADMIN):
        message = "Reading what is another owner's needs the scope admin"
        raise AuthorizationError(message, details={"scope": Scope.ADMIN})
    return msgspec.structs.replace(principal, subject=owner)
