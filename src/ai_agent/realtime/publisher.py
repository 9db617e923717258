"""Events of state changes: committed with the change in the outbox, then published to the log, in order.

A process that dies between the two leaves rows; the relay of any other one publishes them. The log knows an event by
its `eid`, so nothing that is published twice is there twice. Source: the transactional outbox pattern.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.fields import now
from ai_agent.realtime.event_log import EventLog, Fenced
from ai_agent.storage import outbox
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.outbox import Unconfirmed

RELAY_SECONDS = 1.0
"""How often the relay looks, and how old a row is that nobody else is just about to publish."""
RELAYED_AT_ONCE = 500

log = structlog.get_logger()


class Publisher:
    def __init__(self, database: Database, log: EventLog):
        self._database = database
        self._log = log
        self._relay: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._relay = asyncio.create_task(self._relay_for_ever())

    async def close(self) -> None:
        if self._relay is not None:
            self._relay.cancel()
            await asyncio.wait([self._relay])

    async def record(self, rows: Connection, channel: str, *events: tuple[EventType, Any], fence: int = 0) -> None:
        """Writes events in the caller's transaction; they are published when it has committed."""
        await outbox.add(rows, channel, [NewEvent.of(kind, data) for kind, data in events], fence)
        rows.after_commit(partial(self.publish, channel))

    async def publish(self, channel: str) -> None:
        """Brings the channel's committed events to the log. What fails is left to the relay."""
        try:
            await self._publish(channel, await outbox.of_channel(self._database.reader, channel))
        except AIAgentError:
            log.warning("publish_failed", channel=channel, exc_info=True)

    async def _publish(self, channel: str, rows: Sequence[Unconfirmed]) -> None:
        for row in rows:
            try:
                await self._log.append(channel, [row.event], fence=row.fence)
            except Fenced:
                # It was committed all the same: no late word of a worker that lost its run, only late to be published.
                await self._log.append(channel, [row.event])
        if rows:
            async with self._database.unit_of_work() as connection:
                await outbox.confirm(connection, channel, rows[-1].seq)

    async def _relay_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RELAY_SECONDS)
            try:
                await self._relay_once()
            except Exception:
                log.exception("relay_failed")

    async def _relay_once(self) -> None:
        before = now() - timedelta(seconds=RELAY_SECONDS)
        left = await outbox.oldest(self._database.reader, before, RELAYED_AT_ONCE)
        for channel in dict.fromkeys(row.channel for row in left):
            await self._publish(channel, [row for row in left if row.channel == channel])
