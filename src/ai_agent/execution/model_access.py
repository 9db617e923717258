"""What a run needs to reach a model. Light, so that a start may make it: the clients come with the first run."""

import msgspec

from ai_agent.execution.breaker import Breakers, RetryBudget
from ai_agent.execution.local_model import LocalModel
from ai_agent.execution.prices import Prices
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_fields import SecretFields
from ai_agent.settings import Settings


class ModelAccess(msgspec.Struct, frozen=True):
    settings: Settings
    local_model: LocalModel
    secrets: SecretFields
    guard: OutboundGuard
    prices: Prices = msgspec.field(default_factory=Prices)
    breakers: Breakers = msgspec.field(default_factory=Breakers)
    retries: RetryBudget = msgspec.field(default_factory=RetryBudget)
