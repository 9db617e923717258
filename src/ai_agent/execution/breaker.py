"""What keeps a provider that is down from being asked by every run: breakers, and a budget of retries."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from ai_agent.domain.errors import CircuitBreakerOpen
from ai_agent.domain.health import BreakerState

FAILURES = 5
OPEN_SECONDS = 30.0
BREAKERS = 1024

RETRY_SHARE = 0.1
RETRIES_A_MINUTE = 10.0
MOST_RETRIES = 100.0

Clock = Callable[[], float]


class Breaker:
    """Opens after five failures in a row; 30 s later one call tries, and its outcome decides for all."""

    def __init__(self, service: str, clock: Clock = time.monotonic):
        self._service = service
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._left() <= 0 else BreakerState.OPEN

    def admit(self) -> None:
        """Lets a call begin, which then says how it went. Raises CircuitBreakerOpen."""
        if self._opened_at is None:
            return
        if self._left() > 0 or self._trying:
            raise CircuitBreakerOpen(self._service, retry_after=max(1, round(self._left())))
        self._trying = True

    def answered(self) -> None:
        """The service speaks again: others need not wait for the end of this call. One failure opens it again."""
        self._opened_at, self._trying = None, False

    def succeeded(self) -> None:
        self._failures, self._opened_at, self._trying = 0, None, False

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._opened_at = self._clock()
        self._trying = False

    def abandoned(self) -> None:
        """The call ended without telling anything of the service: somebody else may try."""
        self._trying = False

    def _left(self) -> float:
        assert self._opened_at is not None  # noqa: S101  # asked only while it is open
        return self._opened_at + OPEN_SECONDS - self._clock()


class Breakers:
    """A breaker for each key; those that were not asked for longest are forgotten first."""

    def __init__(self, clock: Clock = time.monotonic):
        self._clock = clock
        self._breakers: OrderedDict[tuple[str | None, ...], Breaker] = OrderedDict()

    def of(self, service: str, *key: str | None) -> Breaker:
        """That of a service, under its name and what else tells it from others."""
        breaker = self._breakers.setdefault((service, *key), Breaker(service, self._clock))
        self._breakers.move_to_end((service, *key))
        if len(self._breakers) > BREAKERS:
            self._breakers.popitem(last=False)
        return breaker

    def states(self) -> dict[tuple[str | None, ...], BreakerState]:
        return {key: breaker.state for key, breaker in self._breakers.items()}

    def open(self) -> int:
        """How many let no call through but one that tries."""
        return sum(state is not BreakerState.CLOSED for state in self.states().values())


def worst(states: Iterable[BreakerState]) -> BreakerState:
    """Of several breakers together."""
    found = set(states)
    return next((state for state in (BreakerState.OPEN, BreakerState.HALF_OPEN) if state in found), BreakerState.CLOSED)


class RetryBudget:
    """One retry for ten requests, and ten a minute in any case: retries must not double the load of what is down."""

    def __init__(self, clock: Clock = time.monotonic):
        self._clock = clock
        self._left = RETRIES_A_MINUTE
        self._filled_at = clock()

    def requested(self) -> None:
        self._left = min(self._left + RETRY_SHARE, MOST_RETRIES)

    def take(self) -> bool:
        """Whether a retry may be made."""
        now = self._clock()
        if self._left < RETRIES_A_MINUTE:
            self._left = min(self._left + (now - self._filled_at) * RETRIES_A_MINUTE / 60, RETRIES_A_MINUTE)
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
