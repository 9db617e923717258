"""Rate limits: what is allowed, what a request costs, and what is left of it."""

import math
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec

from ai_agent.domain.errors import AIAgentError


class RouteClass(StrEnum):
    """Operations that share a limit."""

    SESSION_CREATE = "session_create"
    MESSAGE_CREATE = "message_create"
    READ = "read"
    EXECUTE = "execute"
    BULK = "bulk"
    TOOL_INVOKE = "tool_invoke"
    WRITE = "write"


class Strategy(StrEnum):
    """How time is counted: the last so many seconds, or whole windows that begin with the first request."""

    MOVING_WINDOW = "moving-window"
    FIXED_WINDOW = "fixed-window"


TOTAL = "total"
"""The scope of a tier's limit for all requests together."""
AUTH_FAILURE = "auth_failure"
"""The scope of the limit for bad credentials from one address."""


class Window(msgspec.Struct, frozen=True):
    """So many units in so many seconds."""

    amount: int
    seconds: int
    text: str
    """As the grammar of the library `limits` writes it: `10 per 1 minute`."""

    def __mul__(self, factor: int) -> "Window":
        return Window(
            self.amount * factor, self.seconds, self.text.replace(str(self.amount), str(self.amount * factor), 1)
        )


Windows = tuple[Window, ...]

_NO_TIME = re.compile(r"(/|per)\s*0+\s*[a-z]", re.IGNORECASE)
"""What the library reads as one unit of time."""


@lru_cache(maxsize=1024)
def parse_limit(text: str) -> Windows:
    """The windows of `10/minute;200/hour`; a number alone is meant per minute. Raises ValueError."""
    from limits import parse_many  # Half of what it imports nobody here needs, and not every command has limits.

    items = parse_many(f"{text}/minute" if text.strip().isdigit() else text)
    if _NO_TIME.search(text) or any(item.amount < 1 or item.get_expiry() < 1 for item in items):
        raise ValueError(f"{text!r} allows nothing")
    return tuple(dict.fromkeys(Window(item.amount, item.get_expiry(), str(item)) for item in items))


class Charge(msgspec.Struct, frozen=True):
    """What a request takes from one window."""

    scope: str
    window: Window
    cost: int = 1

    def remaining(self, state: "WindowState") -> int:
        return max(self.window.amount - state.used, 0)


class Plan:
    """The windows that a request is charged to: all of them, or none.

    `header` is the `RateLimit-Policy` of the IETF draft "RateLimit header fields for HTTP".
    """

    def __init__(self, charges: Iterable[Charge]):
        self.charges = tuple(charges)
        self.keys = [f"{c.scope}:{c.window.amount}:{c.window.seconds}:" for c in self.charges]
        self.arguments = ";".join(f"{c.window.amount},{c.window.seconds * 1000},{c.cost}" for c in self.charges)
        self.header = ", ".join(f'"{c.scope}";q={c.window.amount};w={c.window.seconds}' for c in self.charges).encode()
        self.impossible = next((c for c in self.charges if c.cost > c.window.amount), None)


class Hit(msgspec.Struct, frozen=True):
    """A plan, and whose windows are meant: one key for each charge."""

    plan: Plan
    keys: Sequence[str]


class WindowState(msgspec.Struct, frozen=True, array_like=True):
    """A window after the request. Times are in milliseconds from now.

    `reset` is when units come back: the oldest ones in a moving window, all of them in a fixed one. `wait` is when the
    request would be allowed, 0 where it is.
    """

    used: int
    reset: int
    wait: int

    def reset_at(self, now: float) -> int:
        """In whole seconds since the epoch, as `now` is."""
        return math.ceil(now + self.reset / 1000)


class Verdict(msgspec.Struct, frozen=True):
    states: Sequence[WindowState]

    @property
    def allowed(self) -> bool:
        return not any(state.wait for state in self.states)


class RateLimitState(msgspec.Struct):
    """What is left of one limit."""

    scope: str
    limit: str
    quota: int
    window: int
    remaining: int
    reset: int


class RateLimitExceeded(AIAgentError):
    """`charge` and `state` are those of the window that refuses longest."""

    status, code = 429, "rate_limit_error"

    def __init__(self, message: str, plan: Plan, charge: Charge, state: WindowState, *, retry_after: int | None):
        self.plan = plan
        self.charge = charge
        self.state = state
        details: dict[str, Any] = {"limit": charge.window.text, "scope": charge.scope, "retry_after": retry_after}
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(message, details=details, headers=headers)
