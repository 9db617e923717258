"""How the services are that runs and requests need, for whoever looks after the server.

All are asked at once, each for a second at most: one that hangs keeps nobody waiting for the others.
"""

import asyncio
import time

import msgspec

from ai_agent.domain.errors import AIAgentError, ConfigurationError
from ai_agent.domain.fields import now
from ai_agent.domain.health import BreakerState, ServiceHealth, ServiceKind, ServicesHealth, ServiceStatus
from ai_agent.domain.mcp_servers import McpServerStatus
from ai_agent.execution.breaker import Breakers, worst
from ai_agent.execution.model_reach import available_models, reach
from ai_agent.services.health import HealthService
from ai_agent.settings import Settings
from ai_agent.storage import execution_history, mcp_servers
from ai_agent.storage.database import Database

SERVICE_SECONDS = 1.0
MODELS_GOOD_FOR_SECONDS = 30.0
"""Providers count requests, also such that cost nothing."""
LONG_WAIT_SECONDS = 30.0
"""A run that no worker has begun for so long says that there are too few."""
MCP_SERVERS = 100

_OF_MCP = {
    McpServerStatus.CONNECTED: ServiceStatus.OK,
    McpServerStatus.DEGRADED: ServiceStatus.DEGRADED,
    McpServerStatus.UNREACHABLE: ServiceStatus.FAILING,
}


class ServiceChecks:
    """`models` and `tools` are the breakers of this process; it has seen no call where others run what is queued."""

    def __init__(
        self, settings: Settings, database: Database, health: HealthService, models: Breakers, tools: Breakers
    ):
        self._settings = settings
        self._database = database
        self._health = health
        self._models = models
        self._tools = tools
        self._reached: dict[str, tuple[float, ServiceHealth]] = {}

    async def look(self) -> ServicesHealth:
        checks = [self._node(), self._queue(), self._mcp_servers()]
        checks += [self._model(name) for name in available_models(self._settings)]
        services = [service for found in await asyncio.gather(*checks) for service in found]
        return ServicesHealth(_overall(services), services)

    async def _node(self) -> list[ServiceHealth]:
        found = await self._health.look()
        wrong = next((name for name in found.failing if name != "draining"), None)
        database = ServiceHealth(
            ServiceKind.DATABASE, self._database.dialect, ServiceStatus.OK, latency_ms=found.database_ms
        )
        if wrong is not None:
            database.status, database.error = ServiceStatus.FAILING, _ERRORS[wrong]
        if self._settings.redis_url is None:
            return [database]
        redis = ServiceHealth(ServiceKind.REDIS, "redis", ServiceStatus.OK, latency_ms=found.redis_ms)
        if "redis" in found.degraded:
            redis.status, redis.error = ServiceStatus.FAILING, _ERRORS["redis"]
        return [database, redis]

    async def _queue(self) -> list[ServiceHealth]:
        """Of the runs that wait for a worker."""
        began = time.monotonic()
        queue = ServiceHealth(ServiceKind.QUEUE, "executions", ServiceStatus.OK)
        try:
            async with asyncio.timeout(SERVICE_SECONDS):
                ready = await execution_history.ready(self._database.reader)
        except (AIAgentError, TimeoutError):
            queue.status, queue.error = ServiceStatus.UNKNOWN, _ERRORS["database"]
            return [queue]
        queue.latency_ms = _milliseconds(began)
        waited = (now() - ready.oldest).total_seconds() if ready.oldest else 0.0
        if waited > LONG_WAIT_SECONDS:
            queue.status = ServiceStatus.DEGRADED
            queue.error = f"{ready.count} runs wait for a worker, the first of them for {waited:.0f} s"
        return [queue]

    async def _model(self, name: str) -> list[ServiceHealth]:
        reached_at, service = self._reached.get(name, (-MODELS_GOOD_FOR_SECONDS, None))
        if service is None or time.monotonic() >= reached_at + MODELS_GOOD_FOR_SECONDS:
            service = await self._reach(name)
            self._reached[name] = (time.monotonic(), service)
        breaker = worst(state for key, state in self._models.states().items() if key[0] == name)
        spared = service.status is ServiceStatus.OK and breaker is not BreakerState.CLOSED
        status = ServiceStatus.DEGRADED if spared else service.status
        # A copy: what is kept is whether it was reached, which outlives the breaker.
        return [msgspec.structs.replace(service, breaker=breaker, status=status)]

    async def _reach(self, name: str) -> ServiceHealth:
        began = time.monotonic()
        service = ServiceHealth(ServiceKind.MODEL, name, ServiceStatus.OK)
        try:
            async with asyncio.timeout(SERVICE_SECONDS):
                await reach(self._settings, name)
        except ConfigurationError as error:
            service.status, service.error = ServiceStatus.FAILING, error.message
        except TimeoutError:
            service.status, service.error = ServiceStatus.FAILING, f"No answer within {SERVICE_SECONDS:g} s"
        else:
            service.latency_ms = _milliseconds(began)
        return service

    async def _mcp_servers(self) -> list[ServiceHealth]:
        """As their own checks left them; those that are not there come first."""
        try:
            async with asyncio.timeout(SERVICE_SECONDS):
                found = await mcp_servers.standings(self._database.reader, MCP_SERVERS)
        except (AIAgentError, TimeoutError):
            return []
        states = {key[0]: state for key, state in self._tools.states().items()}
        return [
            ServiceHealth(
                ServiceKind.MCP_SERVER,
                server.name,
                _OF_MCP.get(server.status, ServiceStatus.UNKNOWN),
                id=server.id,
                breaker=states.get(str(server.id), BreakerState.CLOSED),
                error=server.last_error,
            )
            for server in found
        ]


_ERRORS = {
    "database": "The database does not answer",
    "schema": "The schema is older than the code; run: ai-agent db upgrade",
    "redis": "Redis does not answer; each node counts rate limits by itself",
}


def _milliseconds(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)


def _overall(services: list[ServiceHealth]) -> ServiceStatus:
    """Requests are served as long as the database is there."""
    if any(s.kind is ServiceKind.DATABASE and s.status is ServiceStatus.FAILING for s in services):
        return ServiceStatus.FAILING
    well = all(s.status in {ServiceStatus.OK, ServiceStatus.UNKNOWN} for s in services)
    return ServiceStatus.OK if well else ServiceStatus.DEGRADED
