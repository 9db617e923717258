"""How many runs wait for a worker, and for how long: looked at when `/metrics` is, and not more often than needed."""

import math
import time

from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.fields import now
from ai_agent.observability.execution_metrics import queue_is
from ai_agent.storage import execution_history
from ai_agent.storage.database import Database

GOOD_FOR_SECONDS = 2.0


class ExecutionQueue:
    def __init__(self, database: Database):
        self._database = database
        self._next_look = -math.inf

    async def look(self) -> None:
        """Sets the gauges. While the database is away they are NaN, and the rest of `/metrics` is told all the same."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + GOOD_FOR_SECONDS
        try:
            ready = await execution_history.ready(self._database.reader)
        except AIAgentError:
            queue_is(math.nan, math.nan)
            return
        waited = (now() - ready.oldest).total_seconds() if ready.oldest else 0.0
        queue_is(ready.count, max(0.0, waited))
