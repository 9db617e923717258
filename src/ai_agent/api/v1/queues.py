"""`/admin/queues` and `/admin/events/metrics`."""

from datetime import datetime
from typing import Literal

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery, JSONBody

from ai_agent.api.dependencies import Caller, actor
from ai_agent.api.guards import needs
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.domain.identity import Scope
from ai_agent.domain.inbox import (
    DeadLetterCount,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetters,
    EventMetrics,
    UserQueuePage,
)
from ai_agent.domain.pages import PageRequest
from ai_agent.services.queues import QueueService


class QueueController(Controller):
    path = "/admin"
    tags = ["Administration"]

    @get("/queues", opt=needs(Scope.ADMIN))
    async def list_queues(
        self,
        queues: NamedDependency[QueueService],
        limit: Limit = 20,
        offset: Offset = 0,
        user_id: FromQuery[str | None] = None,
    ) -> UserQueuePage:
        """List queues

        The lanes of users' queues with events that nobody has acknowledged, the deepest first.
        """
        return await queues.list(user_id, limit, offset)

    @get("/queues/dead-letters", opt=needs(Scope.ADMIN))
    async def list_dead_letters(
        self,
        request: Caller,
        queues: NamedDependency[QueueService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["dead_at"]] = "dead_at",
        sort_order: SortOrder = "desc",
        user_id: FromQuery[str | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[DeadLetterPage]:
        """List dead letters

        Events that were sent as often as may be and that no client acknowledged, of all users, the latest first unless
        sorted otherwise.
        """
        wanted = DeadLetterFilter(user_id=user_id, created_after=created_after, created_before=created_before)
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await queues.dead_letters(request.user, wanted, page))

    @post("/queues/dead-letters/replay", status_code=200, opt=needs(Scope.ADMIN))
    async def replay_dead_letters(
        self, request: Caller, data: JSONBody[DeadLetters], queues: NamedDependency[QueueService]
    ) -> DeadLetterCount:
        """Replay dead letters

        Sends them anew, with as many tries as at first, and tells how many they are.
        """
        return DeadLetterCount(await queues.replay(actor(request), data.user_id, data.eids))

    @post("/queues/dead-letters/purge", status_code=200, opt=needs(Scope.ADMIN))
    async def purge_dead_letters(
        self, request: Caller, data: JSONBody[DeadLetters], queues: NamedDependency[QueueService]
    ) -> DeadLetterCount:
        """Purge dead letters

        Removes them for good, and tells how many they were.
        """
        return DeadLetterCount(await queues.purge(actor(request), data.user_id, data.eids))

    @get("/events/metrics", opt=needs(Scope.ADMIN))
    async def get_event_metrics(self, queues: NamedDependency[QueueService]) -> EventMetrics:
        """Get the metrics of events

        Of the server that answers, since it started; what waits is that of the whole deployment.
        """
        return await queues.metrics()
