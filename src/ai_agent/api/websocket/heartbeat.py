"""Whether the client is there: it is asked now and then, and has so long to answer."""

import asyncio
import random
from collections.abc import Callable

JITTER = 0.1
"""So that clients that came together are not asked together."""


class Heartbeat:
    """`ping` has a ping written, `missed` is called when no pong came; `pinged` and `answered` tell of both."""

    def __init__(self, ping_seconds: float, pong_seconds: float, ping: Callable[[], None], missed: Callable[[], None]):
        self.ping_seconds = ping_seconds
        self.pong_seconds = pong_seconds
        self._ping = ping
        self._missed = missed
        self._next: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def start(self) -> None:
        seconds = self.ping_seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret
        self._next = asyncio.get_running_loop().call_later(seconds, self._ping)

    def pinged(self) -> None:
        """The time for the answer begins when the question was written, not when it was queued behind others."""
        self._deadline = asyncio.get_running_loop().call_later(self.pong_seconds, self._missed)

    def answered(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self.start()

    def stop(self) -> None:
        for timer in (self._next, self._deadline):
            if timer is not None:
                timer.cancel()
