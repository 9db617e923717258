"""Limits that are counted in the process, against those of the library whose grammar they use."""

import asyncio

import limits.storage.memory as oracle_memory
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from ai_agent.domain.rate_limits import Charge, Hit, Plan, Strategy, Verdict, parse_limit
from ai_agent.storage.limiter import MemoryLimiter


class Clock:
    """Milliseconds that pass when a test says so; the library under comparison is told seconds."""

    now = 1_000_000

    def milliseconds(self) -> int:
        return self.now

    def time(self) -> float:
        return self.now / 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


def hit(text: str, cost: int = 1, who: str = "u:ada") -> Hit:
    plan = Plan(Charge("scope", window, cost) for window in parse_limit(text))
    return Hit(plan, [key + who for key in plan.keys])


def charge(limiter: MemoryLimiter, wanted: Hit) -> Verdict:
    return asyncio.run(limiter.charge(wanted))


class Oracle:
    """The moving window of the library: a request is counted when all of its windows have room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: Clock):
        # It would look through its keys in a thread of its own, by the true time.
        monkeypatch.setattr(MemoryStorage, "_MemoryStorage__schedule_expiry", lambda _: None)
        monkeypatch.setattr(oracle_memory, "time", clock)
        storage = MemoryStorage()
        storage.timer.cancel()
        self._limiter = MovingWindowRateLimiter(storage)

    def allows(self, windows: list[tuple[int, int]], cost: int) -> bool:
        items = [RateLimitItemPerSecond(amount, seconds) for amount, seconds in windows]
        if not all(self._limiter.test(item, "ada", cost=cost) for item in items):
            return False
        for item in items:
            self._limiter.hit(item, "ada", cost=cost)
        return True

    def left(self, amount: int, seconds: int) -> int:
        return self._limiter.get_window_stats(RateLimitItemPerSecond(amount, seconds), "ada").remaining


COSTS = st.integers(1, 3)
REQUESTS = st.lists(st.tuples(st.integers(0, 1500), COSTS), min_size=1, max_size=60)


@given(st.lists(st.tuples(st.integers(0, 12), COSTS), max_size=60), st.integers(3, 6), st.integers(6, 12))
def test_a_moving_window_decides_as_the_library_does(requests: list[tuple[int, int]], short: int, long: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock()
        oracle = Oracle(monkeypatch, clock)
        limiter = MemoryLimiter(Strategy.MOVING_WINDOW, clock.milliseconds)
        for pause, cost in requests:
            # Never at the very end of a window, where the library's two functions disagree with each other.
            clock.now += pause * 125 + 1
            verdict = charge(limiter, hit(f"{short}/second;{long}/3second", cost))
            assert verdict.allowed == oracle.allows([(short, 1), (long, 3)], cost)
            assert short - verdict.states[0].used == oracle.left(short, 1)
            assert long - verdict.states[1].used == oracle.left(long, 3)


@pytest.mark.parametrize("strategy", Strategy)
@given(requests=REQUESTS)
def test_who_waits_as_long_as_told_is_let_through_and_who_waits_less_is_not(
    strategy: Strategy, requests: list[tuple[int, int]]
) -> None:
    clock = Clock()
    limiter = MemoryLimiter(strategy, clock.milliseconds)
    for pause, cost in requests:
        clock.now += pause
        verdict = charge(limiter, hit("3/second;8/3second", cost))
        if not verdict.allowed:
            wait = max(state.wait for state in verdict.states)
            clock.now += wait - 1
            assert not charge(limiter, hit("3/second;8/3second", cost)).allowed
            clock.now += 1
            assert charge(limiter, hit("3/second;8/3second", cost)).allowed


def test_a_fixed_window_begins_with_the_first_request_and_ends_as_a_whole(clock: Clock) -> None:
    limiter = MemoryLimiter(Strategy.FIXED_WINDOW, clock.milliseconds)
    assert charge(limiter, hit("2/second")).states[0].reset == 1000
    clock.now += 900
    assert charge(limiter, hit("2/second")).states[0].used == 2
    assert not charge(limiter, hit("2/second")).allowed
    clock.now += 100
    assert charge(limiter, hit("2/second", cost=2)).allowed


@pytest.mark.parametrize("strategy", Strategy)
def test_what_is_refused_is_charged_to_no_window(strategy: Strategy, clock: Clock) -> None:
    limiter = MemoryLimiter(strategy, clock.milliseconds)
    for _ in range(5):
        charge(limiter, hit("2/second;100/minute"))
    assert charge(limiter, hit("2/second;100/minute", cost=0)).states[1].used == 2


@pytest.mark.parametrize("strategy", Strategy)
def test_looking_costs_nothing(strategy: Strategy, clock: Clock) -> None:
    limiter = MemoryLimiter(strategy, clock.milliseconds)
    for _ in range(5):
        assert charge(limiter, hit("2/second", cost=0)).allowed
    assert charge(limiter, hit("2/second", cost=2)).allowed


@pytest.mark.parametrize("strategy", Strategy)
def test_each_caller_is_counted_by_itself_and_forgotten_when_its_windows_have_ended(
    strategy: Strategy, clock: Clock
) -> None:
    limiter = MemoryLimiter(strategy, clock.milliseconds)
    for number in range(1000):
        assert charge(limiter, hit("1/second;2/2second", who=f"a:10.0.{number}")).allowed
    clock.now += 1500
    charge(limiter, hit("1/second;2/2second", who="a:10.0.7"))
    assert len(limiter._windows) < 1003
    clock.now += 2500
    charge(limiter, hit("1/second;2/2second", who="u:ada"))
    assert len(limiter._windows) == 2


def test_a_day_of_requests_takes_a_window_of_memory(clock: Clock) -> None:
    limiter = MemoryLimiter(Strategy.MOVING_WINDOW, clock.milliseconds)
    for _ in range(500):
        clock.now += 500
        charge(limiter, hit("10/second"))
    (window,) = limiter._windows.values()
    assert len(window._log) <= 3  # type: ignore[union-attr]  # a moving one
