"""Users' queues, for whoever looks after the server: how deep they are, and what nobody acknowledged."""

import math
from collections.abc import Collection
from math import inf
from uuid import UUID

from ai_agent.domain.audit import Action, Actor, Target
from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.identity import Principal
from ai_agent.domain.inbox import DeadLetterFilter, DeadLetterPage, Durations, EventMetrics, UserQueuePage
from ai_agent.domain.pages import PageRequest
from ai_agent.observability.metrics import registry, take_samples
from ai_agent.observability.realtime_metrics import UNACKNOWLEDGED
from ai_agent.realtime.inbox import Inbox
from ai_agent.services.paging import Pager
from ai_agent.storage import audit, inbox, outbox
from ai_agent.storage.database import Database


class QueueService:
    def __init__(self, database: Database, pager: Pager, queues: Inbox):
        self._database = database
        self._pager = pager
        self._queues = queues

    async def list(self, user: str | None, limit: int, offset: int) -> UserQueuePage:
        """Lanes with events that nobody has acknowledged, the deepest first."""
        lanes = await inbox.lanes(self._database.patient, user, limit + 1, offset)
        return UserQueuePage(items=lanes[:limit], has_more=len(lanes) > limit)

    async def dead_letters(
        self, principal: Principal, wanted: DeadLetterFilter, request: PageRequest
    ) -> DeadLetterPage:
        return await self._pager.page(DeadLetterPage, inbox.DEAD_LETTERS, principal.subject, wanted, request)

    async def replay(self, actor: Actor, user: str | None, eids: Collection[UUID] | None) -> int:
        """Sends dead letters anew: some, a user's, or all. Tells how many they are."""
        async with self._database.unit_of_work() as rows:
            users = await inbox.replay(rows, user, eids)
            await audit.record(rows, actor, Action.DEAD_LETTERS_REPLAYED, _target(user), {"count": len(users)})
        for each in set(users):
            await self._queues.ring(each)
        return len(users)

    async def purge(self, actor: Actor, user: str | None, eids: Collection[UUID] | None) -> int:
        """Removes dead letters: some, a user's, or all. Tells how many they were."""
        async with self._database.unit_of_work() as rows:
            count = await inbox.purge(rows, user, eids)
            await audit.record(rows, actor, Action.DEAD_LETTERS_PURGED, _target(user), {"count": count})
        return count

    async def metrics(self) -> EventMetrics:
        counts = await inbox.counts(self._database.patient)
        take_samples()
        counted = _Counted()
        return EventMetrics(
            published=counted.total("ai_agent_events_published_total"),
            delivered=counted.total("ai_agent_events_delivered_total"),
            replayed=counted.total("ai_agent_events_replayed_total"),
            redeliveries=counted.total("ai_agent_inbox_redeliveries_total"),
            connections=counted.total("ai_agent_ws_connections"),
            subscriptions=counted.total("ai_agent_ws_subscriptions"),
            publish_seconds=counted.percentiles("ai_agent_event_publish_seconds"),
            delivery_seconds=counted.percentiles("ai_agent_event_delivery_seconds"),
            acknowledge_seconds=counted.percentiles("ai_agent_inbox_acknowledge_seconds"),
            unacknowledged=counts.waiting,
            dead_letters=counts.dead,
            oldest_unacknowledged_at=counts.oldest_at,
            outbox_oldest_at=await outbox.oldest(self._database.reader),
        )

    async def look(self) -> None:
        """Sets the gauge of what waits: NaN while the database is away."""
        try:
            UNACKNOWLEDGED.set((await inbox.counts(self._database.reader)).waiting)
        except AIAgentError:
            UNACKNOWLEDGED.set(math.nan)


class _Counted:
    """What `/metrics` would tell."""

    def __init__(self) -> None:
        self._samples = [sample for family in registry().collect() for sample in family.samples]

    def total(self, name: str) -> int:
        return int(sum(sample.value for sample in self._samples if sample.name == name))

    def percentiles(self, name: str) -> Durations:
        """Of a histogram: its buckets count what is at most their bound."""
        buckets = [(float(s.labels["le"]), s.value) for s in self._samples if s.name == f"{name}_bucket"]
        count = buckets[-1][1] if buckets else 0.0
        bounds = [next((le for le, below in buckets if count and below >= part * count), inf) for part in (0.5, 0.99)]
        p50, p99 = (None if bound == inf else bound for bound in bounds)
        return Durations(int(count), p50, p99)


def _target(user: str | None) -> Target:
    return Target("queue", user or "*")
