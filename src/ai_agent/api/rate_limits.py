"""Rate limits are declared beside the handler: `opt=needs(…) | limited(RouteClass.BULK)`.

What declares none has the limit of its method: `read` or `write`. The tier's limit for all requests comes to each,
unless it is EXEMPT. The semantics are slowapi's, without its faults: all windows are charged or none, in one call.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import msgspec
from litestar import Litestar
from litestar.routes import HTTPRoute
from litestar.types import Receive, Scope
from prometheus_client import Counter

from ai_agent.api.body import is_messagepack
from ai_agent.api.dependencies import Caller
from ai_agent.api.headers import header
from ai_agent.domain.errors import ConfigurationError, UnsupportedMediaType
from ai_agent.domain.fields import BULK as BULK_ITEMS
from ai_agent.domain.identity import Principal
from ai_agent.domain.rate_limits import TOTAL, Charge, Hit, Plan, RouteClass, Windows, parse_limit
from ai_agent.observability.metrics import RATE_LIMIT_DECISIONS
from ai_agent.services.rate_limits import Allowance, Left, RateLimitService, counted_as, hit_of, seconds

RATE_LIMITS = "rate_limits"
COMPILED = "compiled_rate_limits"
EXEMPT: dict[str, Any] = {RATE_LIMITS: None}
"""`opt` of an operation without limits, which counts in none."""

PLANS = 256
"""Of one operation: of the tiers, and of so many callers with limits of their own."""

_LEFT = "rate_limit_left"

Cost = int | Callable[[Caller], Awaitable[int]]


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    """One limit of an operation: a text such as `10/minute;200/hour`, a class, or a function of the request.

    `scope` is what is counted together, by default the operation alone: its route template, however its ids differ.
    `key` says whose requests are counted together, by default those of a subject, or of an address without credentials.
    `cost` is what one request takes, `exempt_when` lets some through uncounted, `methods` are those it is for, with
    `per_method` each is counted by itself, and `message` is what a client reads that is refused.
    """

    limit: str | RouteClass | Callable[[Caller], str]
    scope: str | None = None
    key: Callable[[Caller], str] | None = None
    cost: Cost = 1
    exempt_when: Callable[[Caller], bool] | None = None
    methods: frozenset[str] | None = None
    per_method: bool = False
    message: str | None = None

    @property
    def depends_on_request(self) -> bool:
        by_request = callable(self.limit) or self.key or self.exempt_when or callable(self.cost)
        return bool(by_request)


def limited(*limits: RouteClass | RateLimit, total_cost: Cost = 1) -> dict[str, Any]:
    """`opt` of an operation with limits of its own; `total_cost` is what a call takes of the tier's total."""
    declared = [RateLimit(limit=each) if isinstance(each, RouteClass) else each for each in limits]
    return {RATE_LIMITS: (declared, total_cost)}


async def items_of_body(request: Caller) -> int:
    """The cost of a request for many items: how many there are, 1 where the body is refused in any case."""
    body = await request.body()
    try:
        packed = is_messagepack(header(request.scope, b"content-type"))
        items = len((msgspec.msgpack if packed else msgspec.json).decode(body, type=list[msgspec.Raw]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, UnsupportedMediaType):
        return 1
    return items if 0 < items <= BULK_ITEMS else 1


BULK = limited(RouteClass.BULK, total_cost=items_of_body)
"""`opt` of an operation on many items: a call is one of its class, and each item counts in the total."""


class RouteLimits:
    """The limits of one operation. What does not depend on the request is put together once for each tier."""

    def __init__(
        self, limits: Sequence[RateLimit], total_cost: Cost, service: RateLimitService, operation: str, method: str
    ):
        self._limits = limits
        self._total_cost = total_cost
        self._service = service
        self._operation = operation
        self._method = method
        self._fixed = not callable(total_cost) and not any(limit.depends_on_request for limit in limits)
        self._plans: dict[Allowance, Plan] = {}
        self._messages = {self._scope(limit): limit.message for limit in limits}

    async def charge(self, scope: Scope, receive: Receive, principal: Principal | None) -> None:
        """Charges all windows or none, and notes what is left. Raises RateLimitExceeded."""
        allowed = self._service.allowance(principal)
        caller = counted_as(principal, scope["client_address"])  # type: ignore[typeddict-item]  # ours
        plan = self._plans.get(allowed)
        hit = hit_of(plan, caller) if plan else await self._hit(Caller(scope, receive), allowed, caller)
        left = await self._service.charge(hit, self._messages)
        note_left(scope, left, "allowed")

    async def _hit(self, request: Caller, allowed: Allowance, caller: str) -> Hit:
        cost = await _cost(self._total_cost, request)
        charged = [(Charge(TOTAL, window, cost), caller) for window in self._service.total(allowed)]
        for limit in self._limits:
            charged += await self._charged(limit, request, allowed, caller)
        plan = _plan(tuple(charge for charge, _ in charged))
        if self._fixed:
            if len(self._plans) > PLANS:  # Of overrides that are gone.
                self._plans.clear()
            self._plans[allowed] = plan
        return Hit(plan, [key + who for key, (_, who) in zip(plan.keys, charged, strict=True)])

    async def _charged(
        self, limit: RateLimit, request: Caller, allowed: Allowance, caller: str
    ) -> list[tuple[Charge, str]]:
        if limit.exempt_when is not None and limit.exempt_when(request):
            return []
        who = caller if limit.key is None else f"k:{limit.key(request)}"
        cost = await _cost(limit.cost, request)
        return [(Charge(self._scope(limit), window, cost), who) for window in self._windows(limit, request, allowed)]

    def _windows(self, limit: RateLimit, request: Caller, allowed: Allowance) -> Windows:
        if isinstance(limit.limit, RouteClass):
            return self._service.windows(limit.limit, allowed)
        return parse_limit(limit.limit(request) if callable(limit.limit) else limit.limit)

    def _scope(self, limit: RateLimit) -> str:
        own = limit.limit if isinstance(limit.limit, RouteClass) else self._operation
        scope = limit.scope or own
        return f"{scope}:{self._method}" if limit.per_method else scope


async def _cost(cost: Cost, request: Caller) -> int:
    return await cost(request) if callable(cost) else cost


@lru_cache(maxsize=1024)
def _plan(charges: tuple[Charge, ...]) -> Plan:
    return Plan(charges)


@cache
def _counter(scope: str, decision: str) -> Counter:
    return RATE_LIMIT_DECISIONS.labels(scope, decision)


def declare_rate_limits(app: Litestar, service: RateLimitService) -> None:
    """Puts together the limits of each operation. Raises ConfigurationError for one that cannot be read."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                limits = limits_of(handler.opt, service, route.path_format, method)
                handler.opt.setdefault(COMPILED, {})[method] = limits


def limits_of(
    opt: Mapping[str, Any], service: RateLimitService, template: str, method: str = "POST"
) -> RouteLimits | None:
    """Those of an operation with this `opt`; None where nothing is limited. Raises ConfigurationError."""
    declared = opt.get(RATE_LIMITS, limited(_default(method))[RATE_LIMITS])
    limits = _compiled(declared, service, template, method)
    return limits if service.enabled else None


def _default(method: str) -> RouteClass:
    return RouteClass.READ if method == "GET" else RouteClass.WRITE


def _compiled(
    declared: tuple[list[RateLimit], Cost] | None, service: RateLimitService, template: str, method: str
) -> RouteLimits | None:
    if declared is None or method == "OPTIONS":
        return None
    limits, total_cost = declared
    mine = [limit for limit in limits if limit.methods is None or method in limit.methods]
    for limit in mine:
        _check(limit.limit, template)
    return RouteLimits(mine, total_cost, service, template, method)


def _check(limit: object, template: str) -> None:
    try:
        if isinstance(limit, str) and not isinstance(limit, RouteClass):
            parse_limit(limit)
    except ValueError:
        raise ConfigurationError(
            f"{template} declares {limit!r}, which is not a rate limit", "Write it as 10/minute"
        ) from None


def note_left(scope: Scope, left: Left, decision: str) -> None:
    """For the headers of the answer, and the metrics."""
    scope[_LEFT] = left  # type: ignore[literal-required]  # ours
    _counter(left.charge.scope, decision).inc()


def limit_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What is left of the tightest limit, for whoever was counted.

    Sources: slowapi's headers, and the IETF draft "RateLimit header fields for HTTP".
    """
    left: Left | None = scope.get(_LEFT)  # type: ignore[assignment]  # ours
    if left is None:
        return []
    charge, state = left.charge, left.state
    remaining, reset = charge.remaining(state), seconds(state.reset)
    return [
        (b"x-ratelimit-limit", b"%d" % charge.window.amount),
        (b"x-ratelimit-remaining", b"%d" % remaining),
        (b"x-ratelimit-reset", b"%d" % state.reset_at(time.time())),
        (b"ratelimit-policy", left.plan.header),
        (b"ratelimit", b'"%b";r=%d;t=%d' % (charge.scope.encode(), remaining, reset)),
    ]
