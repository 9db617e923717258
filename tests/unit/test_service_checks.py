"""How models are told: by whether they were reached, and by what this process makes of them just now."""

import asyncio
from typing import Any

import pytest

from ai_agent.domain.health import BreakerState, ServiceStatus
from ai_agent.execution.breaker import FAILURES, Breakers
from ai_agent.services import service_checks
from ai_agent.services.service_checks import ServiceChecks
from ai_agent.settings import load_settings


def test_a_model_is_well_again_as_soon_as_its_breaker_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it was reached is remembered, and not what the breaker said then."""

    async def reached(*_: object) -> str:
        return "there"

    monkeypatch.setattr(service_checks, "reach", reached)
    models, nothing = Breakers(), Breakers()
    unused: Any = None
    checks = ServiceChecks(load_settings({}), unused, unused, models, nothing)

    def told() -> tuple[ServiceStatus, BreakerState | None]:
        (service,) = asyncio.run(checks._model("openai"))
        return service.status, service.breaker

    assert told() == (ServiceStatus.OK, BreakerState.CLOSED)
    breaker = models.of("openai", None, "m")
    for _ in range(FAILURES):
        breaker.failed()
    assert told() == (ServiceStatus.DEGRADED, BreakerState.OPEN)
    breaker.succeeded()
    assert told() == (ServiceStatus.OK, BreakerState.CLOSED)
