"""Breakers and the budget of retries, on a clock that the test turns."""

import pytest

from ai_agent.domain.errors import CircuitBreakerOpen
from ai_agent.execution.breaker import FAILURES, OPEN_SECONDS, Breaker, Breakers, RetryBudget


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.admit()
        breaker.failed()


def test_it_opens_after_five_failures_in_a_row() -> None:
    breaker = Breaker("openai", Clock())
    fail(breaker, FAILURES - 1)
    breaker.succeeded()
    fail(breaker, FAILURES - 1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    with pytest.raises(CircuitBreakerOpen) as raised:
        breaker.admit()
    assert raised.value.headers == {"Retry-After": "30"}
    assert raised.value.details == {"service_name": "openai"}
    assert breaker.state == "open"


def opened(clock: Clock) -> Breaker:
    """One that may be tried again."""
    breaker = Breaker("openai", clock)
    fail(breaker, FAILURES)
    clock.time += OPEN_SECONDS
    return breaker


def test_then_one_call_tries_and_the_others_wait_for_it() -> None:
    breaker = opened(Clock())
    assert breaker.state == "half_open"
    breaker.admit()
    with pytest.raises(CircuitBreakerOpen):
        breaker.admit()
    breaker.succeeded()
    breaker.admit()
    assert breaker.state == "closed"


def test_a_try_that_fails_opens_it_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    fail(breaker, 1)
    clock.time += OPEN_SECONDS - 1
    with pytest.raises(CircuitBreakerOpen):
        breaker.admit()


def test_a_try_that_tells_nothing_leaves_the_next_one_to_others() -> None:
    breaker = opened(Clock())
    breaker.admit()
    breaker.abandoned()
    breaker.admit()


def test_a_try_lets_others_in_with_its_first_word_and_shuts_them_out_when_it_breaks() -> None:
    breaker = opened(Clock())
    breaker.admit()
    breaker.answered()
    breaker.admit()
    breaker.failed()
    assert breaker.state == "open"


def test_breakers_are_one_for_each_place_and_model_and_do_not_grow_without_end() -> None:
    breakers = Breakers(Clock())
    assert breakers.of("openai", None, "m") is breakers.of("openai", None, "m")
    assert breakers.of("openai", None, "m") is not breakers.of("openai", "http://x", "m")
    for number in range(2000):
        breakers.of("openai", f"http://{number}", "m")
    assert len(breakers.states()) == 1024


def test_retries_are_ten_a_minute_and_one_for_ten_requests() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    clock.time += 6
    assert [budget.take() for _ in range(2)] == [True, False]
    for _ in range(11):
        budget.requested()
    assert [budget.take() for _ in range(2)] == [True, False]
    clock.time += 3600
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
