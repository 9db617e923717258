"""`/health`: whether the process lives, and whether it should be sent requests."""

import time
from importlib.metadata import version
from typing import Literal

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from ai_agent.api.guards import PUBLIC
from ai_agent.api.openapi import may_answer
from ai_agent.api.rate_limits import EXEMPT
from ai_agent.services.health import HealthService


class Health(msgspec.Struct):
    """What runs here, and since when."""

    status: Literal["ok", "degraded"]
    version: str
    uptime: float
    degraded: list[str] = []


class Alive(msgspec.Struct):
    """The process lives."""

    status: str = "alive"


class Ready(msgspec.Struct):
    """Requests can be served."""

    status: str = "ready"


_STARTED = time.monotonic()
_VERSION = version("ai-agent")


class HealthController(Controller):
    path = "/health"
    tags = ["Health"]
    opt = PUBLIC | EXEMPT

    @get()
    async def get_health(self, health: NamedDependency[HealthService]) -> Health:
        """Get the health

        Status, version, and the seconds since the start; `degraded` names what is away although requests are served.
        Needs no credentials.
        """
        away = health.degraded
        return Health("degraded" if away else "ok", _VERSION, round(time.monotonic() - _STARTED, 3), away)

    @get("/live")
    async def get_liveness(self) -> Alive:
        """Get the liveness

        Answers as long as the process lives, and asks nothing else. Needs no credentials.
        """
        return Alive()

    @get("/ready", opt=may_answer(503))
    async def get_readiness(self, health: NamedDependency[HealthService]) -> Ready:
        """Get the readiness

        Answers when requests can be served, else 503, which names what is missing. Needs no credentials.
        """
        await health.check_ready()
        return Ready()
