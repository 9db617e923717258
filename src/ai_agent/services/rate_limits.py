"""How much whom is allowed: by tier, and by class of operation."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.fields import now
from ai_agent.domain.identity import Principal, Tier
from ai_agent.domain.rate_limit_overrides import LimitTexts, RateLimitOverride
from ai_agent.domain.rate_limits import (
    AUTH_FAILURE,
    TOTAL,
    Charge,
    Hit,
    Plan,
    RateLimitExceeded,
    RateLimitState,
    RouteClass,
    Verdict,
    Windows,
    WindowState,
    parse_limit,
)
from ai_agent.settings import Settings, variable
from ai_agent.storage.limiter import Limiter

PREFIX_BITS = 64
"""An address of IPv6 is counted with its network: whoever has one has all of them."""


class Left(NamedTuple):
    """What is left of the tightest window of a plan."""

    plan: Plan
    charge: Charge
    state: WindowState


class Own(NamedTuple):
    """What a principal is allowed whose limits are overridden: its tier's, but for these scopes."""

    tier: Tier
    limits: tuple[tuple[str, Windows], ...]


Allowance = Tier | Own


class _Override(NamedTuple):
    tier: Tier | None
    limits: tuple[tuple[str, Windows], ...]
    expires_at: datetime | None


class RateLimitService:
    """Raises ConfigurationError for a limit that cannot be read."""

    def __init__(self, settings: Settings, storage: Limiter):
        self.enabled = settings.rate_limit_enabled
        self._storage = storage
        self._factors = {
            Tier.DEFAULT: 1,
            Tier.AUTHENTICATED: settings.rate_limit_multiplier_authenticated,
            Tier.PREMIUM: settings.rate_limit_multiplier_premium,
        }
        self._totals = {tier: _setting(settings, f"rate_limit_tier_{tier}") for tier in Tier}
        self._classes = {each: _setting(settings, f"rate_limit_{each}") for each in RouteClass}
        self._overrides: dict[str, _Override] = {}
        self._failures = Plan(
            Charge(AUTH_FAILURE, window) for window in _setting(settings, f"rate_limit_{AUTH_FAILURE}")
        )

    def override(self, overrides: Iterable[RateLimitOverride]) -> None:
        """From now on, these are all that there are."""
        self._overrides = {each.user_id: _read(each) for each in overrides}

    def allowance(self, principal: Principal | None) -> Allowance:
        """Whose limits count for a caller: those of the tier, or of the operator's own choice."""
        if principal is None:
            return Tier.DEFAULT
        if not self._overrides or (own := self._overrides.get(principal.subject)) is None:
            return principal.tier
        if own.expires_at is not None and own.expires_at <= now():
            return principal.tier
        return Own(own.tier or principal.tier, own.limits)

    def tier(self, principal: Principal) -> Tier:
        """What a caller's requests count as."""
        return _parts(self.allowance(principal))[0]

    def total(self, allowance: Allowance) -> Windows:
        """What all requests of a caller may cost together."""
        tier, own = _parts(allowance)
        return own.get(TOTAL) or self._totals[tier]

    def windows(self, route_class: RouteClass, allowance: Allowance) -> Windows:
        tier, own = _parts(allowance)
        factor = self._factors[tier]
        return own.get(route_class) or tuple(window * factor for window in self._classes[route_class])

    async def charge(self, hit: Hit, messages: Mapping[str, str | None] = MappingProxyType({})) -> Left:
        """Charges all windows or none. `messages` are those of scopes that have one of their own.

        Raises RateLimitExceeded, without a time to come again for what no wait would help.
        """
        if hit.plan.impossible is not None:
            raise await self._never(hit, hit.plan.impossible)
        verdict = await self._storage.charge(hit)
        charge, state = _tightest(hit.plan.charges, verdict)
        if verdict.allowed:
            return Left(hit.plan, charge, state)
        raise _refused(hit.plan, charge, state, state.wait, messages.get(charge.scope))

    async def _never(self, hit: Hit, charge: Charge) -> RateLimitExceeded:
        looked = await self._storage.charge(Hit(_looking(hit.plan), hit.keys))
        message = f"This request costs {charge.cost}, and the limit is {charge.window.text}: send it in parts"
        state = looked.states[hit.plan.charges.index(charge)]
        return RateLimitExceeded(message, hit.plan, charge, state, retry_after=None)

    async def states(self, principal: Principal) -> list[RateLimitState]:
        """What is left of every limit of a caller; looking costs nothing."""
        if not self.enabled:
            return []
        plan = self._everything(self.allowance(principal))
        verdict = await self._storage.charge(hit_of(plan, counted_as(principal, "")))
        at = time.time()
        return [_told(charge, state, at) for charge, state in zip(plan.charges, verdict.states, strict=True)]

    @lru_cache(maxsize=256)  # noqa: B019  # there is one service, which lives as long as the process
    def _everything(self, allowance: Allowance) -> Plan:
        scopes: list[tuple[str, Windows]] = [(TOTAL, self.total(allowance))]
        scopes += [(each, self.windows(each, allowance)) for each in RouteClass]
        return Plan(Charge(scope, window, 0) for scope, windows in scopes for window in windows)

    async def check_address(self, address: str) -> None:
        """Raises RateLimitExceeded when too many bad credentials came from there: no further ones are looked at."""
        plan = self._failures
        looked = await self._storage.charge(hit_of(_looking(plan), counted_as(None, address)))
        pairs = zip(plan.charges, looked.states, strict=True)
        if spent := [(charge, state) for charge, state in pairs if state.used >= charge.window.amount]:
            charge, state = max(spent, key=lambda pair: pair[1].reset)
            raise _refused(plan, charge, state, state.reset)

    async def note_failure(self, address: str) -> None:
        """Counts bad credentials. Raises RateLimitExceeded when they were too many."""
        await self.charge(hit_of(self._failures, counted_as(None, address)))


@lru_cache(maxsize=1024)
def _looking(plan: Plan) -> Plan:
    """The same windows, charged nothing."""
    return Plan(Charge(charge.scope, charge.window, 0) for charge in plan.charges)


def _parts(allowance: Allowance) -> tuple[Tier, dict[str, Windows]]:
    return (allowance.tier, dict(allowance.limits)) if isinstance(allowance, Own) else (allowance, {})


def _read(override: RateLimitOverride) -> _Override:
    limits = msgspec.json.decode(override.limits, type=LimitTexts)
    return _Override(override.tier, limits.windows(), override.expires_at)


def _setting(settings: Settings, field: str) -> Windows:
    text: str = getattr(settings, field)
    try:
        return parse_limit(text)
    except ValueError:
        hint = "Write it as 100/minute, or with several windows as 10/minute;200/hour"
        raise ConfigurationError(f"{variable(field)}: {text!r} is not a rate limit", hint) from None


def counted_as(principal: Principal | None, address: str) -> str:
    """Whose requests are counted together: those of a subject, or of an address without credentials."""
    return f"u:{principal.subject}" if principal else f"a:{_network(address)}"


def _network(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, PREFIX_BITS), strict=False)) if isinstance(parsed, IPv6Address) else address


def hit_of(plan: Plan, caller: str) -> Hit:
    return Hit(plan, [key + caller for key in plan.keys])


def _tightest(charges: Sequence[Charge], verdict: Verdict) -> tuple[Charge, WindowState]:
    """The window that lets least through: of those that refuse, the one that refuses longest."""
    pairs = zip(charges, verdict.states, strict=True)
    return min(pairs, key=lambda pair: (-pair[1].wait, pair[0].window.amount - pair[1].used))


def _refused(
    plan: Plan, charge: Charge, state: WindowState, wait: int, message: str | None = None
) -> RateLimitExceeded:
    message = message or f"Too many requests: {charge.window.text}"
    return RateLimitExceeded(message, plan, charge, state, retry_after=seconds(wait))


def seconds(milliseconds: int) -> int:
    """Whole seconds, after which it is true."""
    return math.ceil(milliseconds / 1000)


def _told(charge: Charge, state: WindowState, at: float) -> RateLimitState:
    return RateLimitState(
        scope=charge.scope,
        limit=charge.window.text,
        quota=charge.window.amount,
        window=charge.window.seconds,
        remaining=charge.remaining(state),
        reset=state.reset_at(at),
    )
