"""What all readers of a node read of the log: equal reads are one, and only so many are made at once."""

import asyncio
from typing import NamedTuple

from ai_agent.realtime.event_log import LogPage, Position
from ai_agent.realtime.follow import Readable

AT_ONCE = 32


class _Question(NamedTuple):
    channel: str
    since: Position
    limit: int


class LogReads:
    """A log's `read`, shared by those who ask the same before it has begun.

    One that has begun is joined by nobody: it may be older than what the joiner has subscribed to.
    """

    def __init__(self, log: Readable):
        self._log = log
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting: dict[_Question, asyncio.Task[LogPage]] = {}

    async def read(self, channel: str, since: Position, limit: int) -> LogPage:
        """Raises ServiceUnavailable."""
        question = _Question(channel, since, limit)
        task = self._waiting.get(question)
        if task is None:
            task = self._waiting[question] = asyncio.create_task(self._answer(question))
        # One who leaves disturbs nobody: others may wait for the same page.
        return await asyncio.shield(task)

    async def _answer(self, question: _Question) -> LogPage:
        async with self._turns:
            del self._waiting[question]
            return await self._log.read(*question)
