"""Tells a client in time that its credentials end, and says when nobody has renewed them."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial

from ai_agent.domain.fields import now
from ai_agent.domain.frames import AuthExpiring

WARNING_SECONDS = 60.0
GRACE_SECONDS = 25.0
"""For a client that renews late: so long after their end the credentials still do."""
LONGEST_SECONDS = 3600.0
"""Behind so many the clock is looked at again: it may have been set."""


class Expiry:
    """`tell` is called once before the end, `end` when the grace is over."""

    def __init__(self, tell: Callable[[AuthExpiring], None], end: Callable[[], None]):
        self._tell = tell
        self._end = end
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, expires_at: datetime | None) -> None:
        """Watches these credentials in place of those before; None never end."""
        self.stop()
        if expires_at is not None:
            self._look(expires_at, warned=False)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, expires_at: datetime, *, warned: bool) -> None:
        left = (expires_at - now()).total_seconds()
        if left <= -GRACE_SECONDS:
            self._end()
            return
        if left <= WARNING_SECONDS and not warned:
            self._tell(AuthExpiring(in_ms=max(round(left * 1000), 0)))
            warned = True
        wait = left + GRACE_SECONDS if warned else left - WARNING_SECONDS
        again = partial(self._look, expires_at, warned=warned)
        self._timer = asyncio.get_running_loop().call_later(min(wait, LONGEST_SECONDS), again)
