"""Who calls, how often, whether they may, and what they ask for: of every route, in this order, before all else."""

from litestar.types import ASGIApp, Receive, Scope, Send

from ai_agent.api.acting import acting_for, wanted_owner
from ai_agent.api.guards import METHODS, SCOPE, check_scope
from ai_agent.api.headers import header
from ai_agent.api.lean import LeanMiddleware
from ai_agent.api.parameters import check_parameters
from ai_agent.api.rate_limits import COMPILED, RouteLimits
from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.identity import Principal
from ai_agent.observability.timing import timed
from ai_agent.services.identity import ANYONE, IdentityService
from ai_agent.services.rate_limits import RateLimitService

_NO_LIMITS: dict[str, RouteLimits] = {}


class Admission(LeanMiddleware):
    """Sets `scope["user"]` to the Principal, who has the operation's scope; one whose scope is None needs nobody."""

    def __init__(self, identity: IdentityService, limits: RateLimitService, *, required: bool):
        self._identity = identity
        self._limits = limits
        self._required = required

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        opt, method = scope["route_handler"].opt, scope["method"]  # type: ignore[typeddict-item]  # of HTTP
        if method == "OPTIONS":
            await _tell_methods(scope, send)
            return
        needed: str | None = opt[SCOPE]
        principal = None
        if needed is not None:
            with timed("auth"):
                principal = await self._principal(scope)
        limits: RouteLimits | None = opt.get(COMPILED, _NO_LIMITS).get(method)
        if limits is not None:
            with timed("limit"):
                await limits.charge(scope, receive, principal)
        if needed is not None:
            if principal is None:
                raise AuthenticationError
            scope["caller"] = principal  # type: ignore[typeddict-unknown-key]  # ours, for the log
            check_scope(principal, needed)
            scope["user"] = acting_for(principal, wanted_owner(scope))
        check_parameters(scope)
        await next_app(scope, receive, send)

    async def _principal(self, scope: Scope) -> Principal | None:
        """The caller, None without credentials. Raises AuthenticationError for bad ones, and RateLimitExceeded."""
        if not self._required:
            return ANYONE
        credentials = header(scope, b"authorization")
        if credentials is None:
            return None
        scheme, _, token = credentials.partition(" ")
        if scheme.lower() != "bearer":
            token = ""  # As bad as any, and counted as one.
        return self._identity.known(token) or await self._verified(token, scope["client_address"])  # type: ignore[typeddict-item]  # ours

    async def _verified(self, token: str, address: str) -> Principal:
        """Credentials that nobody has seen lately: from where too many bad ones came, they are not even looked at."""
        await self._limits.check_address(address)
        try:
            return await self._identity.verify(token)
        except AuthenticationError:
            await self._limits.note_failure(address)
            raise


async def _tell_methods(scope: Scope, send: Send) -> None:
    allow = str(scope["route_handler"].opt[METHODS]).encode()
    await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow)]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
