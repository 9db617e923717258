"""Who calls, how often, whether they may, and what they ask for: of every route, in this order, before all else."""

from litestar.types import ASGIApp, Receive, Scope, Send

from ai_agent.api.acting import acting_for, wanted_owner
from ai_agent.api.guards import METHODS, SCOPE, check_scope
from ai_agent.api.headers import bearer_token
from ai_agent.api.lean import LeanMiddleware
from ai_agent.api.parameters import check_parameters
from ai_agent.api.rate_limits import COMPILED, RouteLimits, note_left
from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.identity import Principal
from ai_agent.domain.rate_limits import RateLimitExceeded
from ai_agent.observability.timing import timed
from ai_agent.services.credentials import Credentials
from ai_agent.services.identity import ANYONE
from ai_agent.services.rate_limits import Left, RateLimitService

_NO_LIMITS: dict[str, RouteLimits] = {}


class Admission(LeanMiddleware):
    """Sets `scope["caller"]` to the Principal who asks, and `scope["user"]` to the one whom it is done for.

    An operation whose scope is None needs nobody, and has neither.
    """

    def __init__(self, credentials: Credentials, limits: RateLimitService, *, required: bool):
        self._credentials = credentials
        self._required = required
        self._nobody = RouteLimits([], 1, limits, "", "")

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        if scope["method"] == "OPTIONS":  # type: ignore[typeddict-item]  # of HTTP
            await _tell_methods(scope, send)
            return
        needed: str | None = scope["route_handler"].opt[SCOPE]
        try:
            principal = None if needed is None else await self._caller(scope)
            await self._limit(scope, receive, principal, needed)
        except RateLimitExceeded as refused:
            note_left(scope, Left(refused.plan, refused.charge, refused.state), "rejected")
            raise
        if needed is not None:
            if principal is None:
                raise AuthenticationError
            check_scope(principal, needed)
            scope["user"] = acting_for(principal, wanted_owner(scope))
        check_parameters(scope)
        await next_app(scope, receive, send)

    async def _limit(self, scope: Scope, receive: Receive, principal: Principal | None, needed: str | None) -> None:
        limits: RouteLimits | None = (
            scope["route_handler"].opt.get(COMPILED, _NO_LIMITS).get(scope["method"])  # type: ignore[typeddict-item]
        )
        if limits is None:
            return
        if principal is None and needed is not None:
            limits = self._nobody  # Who is refused in any case is not asked what it would have cost.
        with timed("limit"):
            await limits.charge(scope, receive, principal)

    async def _caller(self, scope: Scope) -> Principal | None:
        with timed("auth"):
            principal = await self._principal(scope)
        if principal is not None:
            scope["caller"] = scope["user"] = principal  # type: ignore[typeddict-unknown-key]  # ours: for log and limits
        return principal

    async def _principal(self, scope: Scope) -> Principal | None:
        """The caller, None without credentials. Raises AuthenticationError for bad ones, and RateLimitExceeded."""
        if not self._required:
            return ANYONE
        if (token := bearer_token(scope)) is None:
            return None
        try:
            return await self._credentials.of_token(token, scope["client_address"])  # type: ignore[typeddict-item]  # ours
        except AuthenticationError as error:
            if error.guessed:
                raise
            return None  # One that has ended is as good as none.


async def _tell_methods(scope: Scope, send: Send) -> None:
    allow = str(scope["route_handler"].opt[METHODS]).encode()
    await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow)]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
