"""Messages that application code wants published and does not wait for: each goes to the log once, in order."""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import NewEvent
from ai_agent.observability.metrics import APPLICATION_EVENTS_LOST
from ai_agent.observability.realtime_metrics import publishing
from ai_agent.realtime.event_log import EventLog, Fenced

WAITING = 10_000
AT_ONCE = 256
"""Events of one append."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
GIVE_UP_SECONDS = 300.0
"""So long one channel is tried before what it was to get is given up."""

log = structlog.get_logger()


class Message(NamedTuple):
    channel: str
    event: NewEvent


class Outgoing:
    """A bounded queue to the log. What failed is tried again, under the same `eid`, so nothing is there twice."""

    def __init__(self, log: EventLog):
        self._log = log
        self._waiting: dict[str, list[NewEvent]] = {}
        self._failing_since: dict[str, float] = {}
        self._count = 0
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, messages: Sequence[Message]) -> None:
        """All or none. Raises ServiceUnavailable when too many wait already."""
        if self._count + len(messages) > WAITING:
            raise ServiceUnavailable(f"{self._count} messages wait to be published already")
        for channel, event in messages:
            self._waiting.setdefault(channel, []).append(event)
        self._count += len(messages)
        if messages:
            self._idle.clear()
            self._arrived.set()

    async def sent(self) -> None:
        """Waits until nothing waits any more."""
        await self._idle.wait()

    async def run(self) -> None:
        """Sends what waits, for ever."""
        pause = FIRST_PAUSE
        while True:
            await self._arrived.wait()
            await asyncio.gather(*(self._send(channel) for channel in list(self._waiting)))
            if self._failing_since:
                await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE) if self._failing_since else FIRST_PAUSE

    def give_up(self) -> None:
        """Drops what still waits."""
        for channel, events in list(self._waiting.items()):
            self._lose(channel, len(events), None)

    async def _send(self, channel: str) -> None:
        events = self._waiting[channel][:AT_ONCE]
        try:
            with publishing(len(events)):
                await self._log.append(channel, events)
        except (Fenced, ValueError) as error:  # These will not be taken at any time.
            self._lose(channel, len(events), error)
        except Exception as error:
            self._failed(channel, len(events), error)
        else:
            self._done(channel, len(events))

    def _failed(self, channel: str, count: int, error: Exception) -> None:
        if channel not in self._failing_since:
            self._failing_since[channel] = time.monotonic()
            log.warning("application_events_wait", channel=channel, events=count, exc_info=error)
        elif time.monotonic() - self._failing_since[channel] > GIVE_UP_SECONDS:
            self._lose(channel, count, error)

    def _lose(self, channel: str, count: int, error: Exception | None) -> None:
        log.error("application_events_lost", channel=channel, events=count, exc_info=error)
        APPLICATION_EVENTS_LOST.labels("unpublished").inc(count)
        self._done(channel, count)

    def _done(self, channel: str, count: int) -> None:
        self._failing_since.pop(channel, None)
        del self._waiting[channel][:count]
        self._count -= count
        if not self._waiting[channel]:
            del self._waiting[channel]
        if not self._waiting:
            self._arrived.clear()
            self._idle.set()
