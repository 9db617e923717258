"""Whether what the server depends on is there."""

from ai_agent.domain.errors import AIAgentError, ServiceUnavailable
from ai_agent.storage.database import Database
from ai_agent.storage.migrations import current_revision


class HealthService:
    def __init__(self, database: Database):
        self._database = database
        self.draining = False

    async def check_ready(self) -> None:
        """Raises ServiceUnavailable, with the failing check named."""
        if self.draining:
            raise ServiceUnavailable("Not ready: draining")
        try:
            await current_revision(self._database)
        except (AIAgentError, TimeoutError) as error:
            raise ServiceUnavailable("Not ready: database") from error
