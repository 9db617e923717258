"""What an application reads of one channel."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from ai_agent.client.notices import Notice

MOST_WAITING = 1000
"""Of an application that is slow no more is kept here; the server keeps it, and is asked when it is wanted."""


class Subscription:
    """Iterates over events and notices. Ends when it is left; raises SubscriptionEnded or Closed when it is ended.

    `slow` is called with True when too much waits here, and with False when it was read.
    """

    def __init__(
        self, channel: str, leave: "Callable[[Subscription], None]", slow: "Callable[[Subscription, bool], None]"
    ):
        self.channel = channel
        self._leave, self._slow = leave, slow
        self._waiting: deque[Notice] = deque()
        self._news = asyncio.Event()
        self._paused = self._left = False
        self._error: Exception | None = None

    def put(self, notice: Notice) -> None:
        self._waiting.append(notice)
        self._news.set()
        if len(self._waiting) >= MOST_WAITING and not self._paused:
            self._paused = True
            self._slow(self, True)

    def fail(self, error: Exception) -> None:
        self._error = error
        self._news.set()

    def leave(self) -> None:
        """Nothing more is wanted."""
        if not self._left:
            self._left = True
            self._waiting.clear()
            self._news.set()
            self._leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notice:
        while not self._waiting:
            if self._left:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        notice = self._waiting.popleft()
        if self._paused and not self._waiting:
            self._paused = False
            self._slow(self, False)
        return notice

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()
