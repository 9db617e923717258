"""How fast a client may send: a bucket of tokens, and an end to patience.

Source: the token bucket, RFC 2697 in spirit: `COMMAND_BURST` at once, `COMMANDS_PER_SECOND` in the long run.
"""

import math

from ai_agent.domain.frames import COMMAND_BURST, COMMANDS_PER_SECOND

PATIENCE_SECONDS = 10.0
CALM_SECONDS = 2.0
"""Without a refusal for so long it is over: who sends a little too much is refused once a second."""
BAD_FRAMES = 5
BAD_FRAME_SECONDS = 60.0


class CommandRate:
    """Times are those of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._tokens = float(COMMAND_BURST)
        self._at = 0.0
        self._over_since: float | None = None
        self._refused_at = 0.0
        self._bad: list[float] = []

    def take(self, at: float) -> int:
        """0 where a command may be done, else after how many milliseconds one may."""
        self._tokens = min(COMMAND_BURST, self._tokens + (at - self._at) * COMMANDS_PER_SECOND)
        self._at = at
        if at - self._refused_at > CALM_SECONDS:
            self._over_since = None
        if self._tokens >= 1:
            self._tokens -= 1
            return 0
        self._refused_at = at
        if self._over_since is None:
            self._over_since = at
        return math.ceil((1 - self._tokens) * 1000 / COMMANDS_PER_SECOND)

    def is_flood(self, at: float) -> bool:
        """Whether it has been too much for ten seconds."""
        return self._over_since is not None and at - self._over_since >= PATIENCE_SECONDS

    def is_garbage(self, at: float) -> bool:
        """Notes a bad frame; whether it is the fifth in a minute."""
        self._bad = [*self._bad[1 - BAD_FRAMES :], at]
        return len(self._bad) == BAD_FRAMES and at - self._bad[0] < BAD_FRAME_SECONDS
