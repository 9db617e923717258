"""`/rate-limit`: what is left, for whoever asks."""

from collections.abc import Sequence

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import IDENTIFIED
from ai_agent.api.rate_limits import EXEMPT
from ai_agent.domain.identity import Tier
from ai_agent.domain.rate_limits import RateLimitState
from ai_agent.services.rate_limits import RateLimitService


class RateLimits(msgspec.Struct):
    """The caller's limits, none where they are switched off."""

    tier: Tier
    limits: Sequence[RateLimitState]


class RateLimitController(Controller):
    path = "/rate-limit"
    tags = ["Rate limits"]

    @get(opt=IDENTIFIED | EXEMPT)
    async def get_rate_limits(self, request: Caller, rate_limits: NamedDependency[RateLimitService]) -> RateLimits:
        """Get the rate limits

        Every limit of the caller, and what is left of it. Asking costs nothing.
        """
        return RateLimits(rate_limits.tier(request.user), await rate_limits.states(request.user))
