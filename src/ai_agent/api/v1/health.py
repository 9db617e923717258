"""`/health`: whether the process lives, and whether it should be sent requests."""

import time
from importlib.metadata import version

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from ai_agent.api.guards import PUBLIC
from ai_agent.services.health import HealthService


class Health(msgspec.Struct):
    status: str
    version: str
    uptime: float


class Alive(msgspec.Struct):
    status: str = "alive"


class Ready(msgspec.Struct):
    status: str = "ready"


_STARTED = time.monotonic()
_VERSION = version("ai-agent")


class HealthController(Controller):
    path = "/health"
    tags = ["Health"]
    opt = PUBLIC

    @get()
    async def get_health(self) -> Health:
        """Status, version and uptime in seconds"""
        return Health("ok", _VERSION, round(time.monotonic() - _STARTED, 3))

    @get("/live")
    async def get_liveness(self) -> Alive:
        """Whether the process lives; asks nobody"""
        return Alive()

    @get("/ready")
    async def get_readiness(self, health: NamedDependency[HealthService]) -> Ready:
        """Whether requests can be served; 503 names what is missing"""
        await health.check_ready()
        return Ready()
