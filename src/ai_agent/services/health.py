"""Whether what the server depends on is there."""

from ai_agent.domain.errors import AIAgentError, ServiceUnavailable
from ai_agent.storage.database import Database
from ai_agent.storage.limiter import Limiter
from ai_agent.storage.migrations import current_revision


class HealthService:
    def __init__(self, database: Database, limiter: Limiter):
        self._database = database
        self._limiter = limiter
        self.draining = False

    @property
    def degraded(self) -> list[str]:
        """What is away, and does not keep the server from serving."""
        return ["redis"] if self._limiter.degraded else []

    async def check_ready(self) -> None:
        """Raises ServiceUnavailable, with the failing check named."""
        if self.draining:
            raise ServiceUnavailable("Not ready: draining")
        try:
            await current_revision(self._database)
        except (AIAgentError, TimeoutError) as error:
            raise ServiceUnavailable("Not ready: database") from error
