"""Which sockets have something to write: many at a turn, without a task's switch for each, and others in between."""

import asyncio
from collections import deque
from typing import Protocol

AT_ONCE = 256


class Writes(Protocol):
    def write_at_once(self) -> None:
        """Does not wait, and raises nothing."""


class Turns:
    """Of a node's loop: `add` lets somebody write behind what is going on now."""

    def __init__(self) -> None:
        self._waiting: deque[Writes] = deque()

    def add(self, who: Writes) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self._waiting.append(who)

    def _turn(self) -> None:
        waiting = self._waiting
        for _ in range(min(AT_ONCE, len(waiting))):
            waiting[0].write_at_once()
            waiting.popleft()
        if waiting:
            asyncio.get_running_loop().call_soon(self._turn)
