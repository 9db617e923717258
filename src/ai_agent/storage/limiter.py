"""Rate limits, counted in this process: for a server of one process, and while Redis is away.

All windows of a hit are looked at, then all are charged or none. Both strategies count as those of the library `limits`
do; its own memory storage looks through all keys a hundred times a second, and charges fixed windows
for what it rejects.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ai_agent.domain.rate_limits import Charge, Hit, Strategy, Verdict, WindowState


class Limiter(Protocol):
    @property
    def degraded(self) -> bool:
        """Whether limits are counted otherwise than they should be."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> None:
        """Looks whether limits are counted as they should be, and sets `degraded`."""

    async def charge(self, hit: Hit) -> Verdict:
        """Charges all windows of a hit, or none when one has no room. A cost of 0 only looks."""


class _Moving:
    """The charges of the last `span` milliseconds, oldest first."""

    def __init__(self, span: int):
        self._span = span
        self._log: deque[tuple[int, int]] = deque()
        self._used = 0

    def look(self, now: int, limit: int, cost: int) -> WindowState:
        log, oldest = self._log, now - self._span
        while log and log[0][0] <= oldest:
            self._used -= log.popleft()[1]
        reset = self._frees(log[0][0], now) if log else 0
        missing = self._used + cost - limit
        return WindowState(self._used, reset, self._wait(now, missing) if cost and missing > 0 else 0)

    def _wait(self, now: int, missing: int) -> int:
        for at, cost in self._log:
            missing -= cost
            if missing <= 0:
                return self._frees(at, now)
        return self._span

    def _frees(self, at: int, now: int) -> int:
        return at + self._span - now

    def take(self, now: int, cost: int) -> WindowState:
        self._log.append((now, cost))
        self._used += cost
        return WindowState(self._used, self._frees(self._log[0][0], now), 0)

    def ends(self) -> int:
        return self._log[-1][0] + self._span if self._log else 0


class _Fixed:
    """The charges since the first one, for `span` milliseconds."""

    def __init__(self, span: int):
        self._span = span
        self._used = 0
        self._end = 0

    def look(self, now: int, limit: int, cost: int) -> WindowState:
        if self._end <= now:
            self._used, self._end = 0, 0
        reset = max(self._end - now, 0)
        return WindowState(self._used, reset, reset if cost and self._used + cost > limit else 0)

    def take(self, now: int, cost: int) -> WindowState:
        self._end = self._end or now + self._span
        self._used += cost
        return WindowState(self._used, self._end - now, 0)

    def ends(self) -> int:
        return self._end


_WINDOWS: dict[Strategy, type[_Moving] | type[_Fixed]] = {
    Strategy.MOVING_WINDOW: _Moving,
    Strategy.FIXED_WINDOW: _Fixed,
}


def _milliseconds() -> int:
    return time.monotonic_ns() // 1_000_000


class MemoryLimiter:
    """`clock` answers milliseconds."""

    degraded = False

    def __init__(self, strategy: Strategy, clock: Callable[[], int] = _milliseconds):
        self._new = _WINDOWS[strategy]
        self._clock = clock
        self._windows: dict[str, _Moving | _Fixed] = {}
        # When each window may end, so that those that nobody uses any more are found without looking at all.
        self._ends: list[tuple[int, str]] = []

    async def start(self) -> None:
        """Nothing is to be done."""

    async def close(self) -> None:
        """Nothing is to be done."""

    async def check(self) -> None:
        """Nothing can be wrong."""

    async def charge(self, hit: Hit) -> Verdict:
        now = self._clock()
        self._forget(now)
        charges = hit.plan.charges
        windows = [self._window(key, charge, now) for key, charge in zip(hit.keys, charges, strict=True)]
        pairs = list(zip(windows, charges, strict=True))
        verdict = Verdict([window.look(now, charge.window.amount, charge.cost) for window, charge in pairs])
        if not verdict.allowed or not any(charge.cost for charge in charges):
            return verdict
        return Verdict([window.take(now, charge.cost) for window, charge in pairs])

    def _window(self, key: str, charge: Charge, now: int) -> _Moving | _Fixed:
        found = self._windows.get(key)
        if found is None:
            span = charge.window.seconds * 1000
            found = self._new(span)
            if charge.cost:  # Whoever only looks leaves nothing.
                self._windows[key] = found
                heapq.heappush(self._ends, (now + span, key))
        return found

    def _forget(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            end = self._windows[key].ends()
            if end <= now:
                del self._windows[key]
            else:
                heapq.heappush(self._ends, (end, key))
