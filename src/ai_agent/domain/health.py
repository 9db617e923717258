"""How the services are that the server depends on."""

from enum import StrEnum
from uuid import UUID

import msgspec


class BreakerState(StrEnum):
    """Whether a service is called: `open` when it failed five times in a row, `half_open` when one call may try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class ServiceKind(StrEnum):
    """What the server depends on."""

    DATABASE = "database"
    REDIS = "redis"
    QUEUE = "queue"
    MODEL = "model"
    MCP_SERVER = "mcp_server"


class ServiceStatus(StrEnum):
    """`degraded`: it works, and not as it should. `failing`: what needs it does not work."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"
    UNKNOWN = "unknown"


class ServiceHealth(msgspec.Struct):
    """One service, as this node sees it."""

    kind: ServiceKind
    name: str
    status: ServiceStatus
    id: UUID | None = None
    latency_ms: float | None = None
    breaker: BreakerState | None = None
    error: str | None = None


class ServicesHealth(msgspec.Struct):
    """All services, and the worst of what requests need."""

    status: ServiceStatus
    services: list[ServiceHealth]
