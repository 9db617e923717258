"""How far the log is behind the database: looked at when `/metrics` is."""

import math

from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.fields import now
from ai_agent.observability.realtime_metrics import OUTBOX_LAG
from ai_agent.storage import outbox
from ai_agent.storage.database import Database


class OutboxLag:
    def __init__(self, database: Database):
        self._database = database

    async def look(self) -> None:
        """Sets the gauge: NaN while the database is away."""
        try:
            oldest = await outbox.oldest(self._database.reader)
        except AIAgentError:
            OUTBOX_LAG.set(math.nan)
            return
        OUTBOX_LAG.set(max(0.0, (now() - oldest).total_seconds()) if oldest else 0.0)
