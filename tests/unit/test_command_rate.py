"""How fast a client may send, by a clock of the test's own."""

from itertools import count

from ai_agent.api.websocket.command_rate import CommandRate
from ai_agent.domain.frames import COMMAND_BURST


def closed_after(rate: CommandRate, per_second: float, seconds: float, at: float = 0) -> float | None:
    """When a client that sends so many commands a second is closed; None where it is not."""
    for number in count():
        now = at + number / per_second
        if now > at + seconds:
            return None
        rate.take(now)
        if rate.is_flood(now):
            return now - at
    raise AssertionError


def test_who_sends_more_than_it_may_for_ten_seconds_is_closed() -> None:
    for per_second in (55, 60, 300):
        rate = CommandRate()
        for _ in range(COMMAND_BURST):
            rate.take(0)
        closed = closed_after(rate, per_second, 15)
        assert closed is not None
        assert 10 <= closed < 11


def test_who_sent_too_much_once_and_keeps_to_the_rate_is_not_closed() -> None:
    rate = CommandRate()
    refused = [rate.take(0) for _ in range(COMMAND_BURST + 10)]
    assert all(refused[-10:])
    assert closed_after(rate, 49, 60) is None


def test_each_flood_has_its_own_ten_seconds() -> None:
    rate = CommandRate()
    assert closed_after(rate, 300, 5) is None
    assert closed_after(rate, 40, 30, at=5) is None
    assert closed_after(rate, 300, 9, at=35) is None
