"""`/health`: whether the process lives, and whether it should be sent requests."""

import time
from importlib.metadata import version
from typing import Literal

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from ai_agent.api.guards import PUBLIC, needs
from ai_agent.api.openapi import may_answer
from ai_agent.api.rate_limits import EXEMPT
from ai_agent.domain.health import ServicesHealth
from ai_agent.domain.identity import Scope
from ai_agent.services.health import HealthService
from ai_agent.services.service_checks import ServiceChecks


class Health(msgspec.Struct):
    """What runs here, and since when."""

    status: Literal["ok", "degraded", "failing"]
    version: str
    uptime: float
    degraded: list[str] = []
    failing: list[str] = []


class Alive(msgspec.Struct):
    """The process lives."""

    status: str = "alive"


class Ready(msgspec.Struct):
    """Requests can be served, though perhaps not as well as they should be."""

    status: str = "ready"
    degraded: list[str] = []


_STARTED = time.monotonic()
_VERSION = version("ai-agent")


class HealthController(Controller):
    path = "/health"
    tags = ["Health"]
    opt = PUBLIC | EXEMPT

    @get()
    async def get_health(self, health: NamedDependency[HealthService]) -> Health:
        """Get the health

        Status, version, and the seconds since the start. `failing` names what keeps requests from being served,
        `degraded` what is away although they are. Answers within a second, whatever hangs, and needs no credentials.
        """
        found = await health.look()
        status: Literal["ok", "degraded", "failing"] = "degraded" if found.degraded else "ok"
        return Health(
            status="failing" if found.failing else status,
            version=_VERSION,
            uptime=round(time.monotonic() - _STARTED, 3),
            degraded=list(found.degraded),
            failing=list(found.failing),
        )

    @get("/live")
    async def get_liveness(self) -> Alive:
        """Get the liveness

        Answers as long as the process lives, and asks nothing else. Needs no credentials.
        """
        return Alive()

    @get("/ready", opt=may_answer(503))
    async def get_readiness(self, health: NamedDependency[HealthService]) -> Ready:
        """Get the readiness

        Answers when requests can be served, else 503, which names what fails: `database`, `schema` or `draining`.
        What is away although requests are served is in `degraded`. Answers within a second, and needs no credentials.
        """
        found = await health.check_ready()
        return Ready(degraded=list(found.degraded))


class ServicesController(Controller):
    """Apart from the health of a process, which also those tell that ask for no credentials."""

    path = "/health/services"
    tags = ["Health"]

    @get(opt=needs(Scope.ADMIN))
    async def get_services(self, service_checks: NamedDependency[ServiceChecks]) -> ServicesHealth:
        """Get the health of services

        How the database, Redis, the queue of runs, models and MCP servers are, asked at once and for a second at most;
        models at most every 30 seconds, MCP servers as their own checks left them, those that are not there first, and
        100 at most. Breakers are those of the process that answers.
        """
        return await service_checks.look()
