"""Webhooks: when a delivery is tried again, and what it is signed with."""

from datetime import timedelta
from email.utils import format_datetime

import pytest

from ai_agent.domain.deliveries import DeliveryStatus
from ai_agent.domain.fields import new_id, now
from ai_agent.execution.webhook_post import Result, seconds_of
from ai_agent.execution.webhooks import outcome, wait_seconds
from ai_agent.security.webhook_signatures import WebhookSigner

REFUSED = Result(500, "The receiver answered 500")


@pytest.mark.parametrize(("attempts", "least"), [(1, 1), (2, 4), (3, 16), (4, 64), (5, 256)])
def test_each_wait_is_four_times_the_one_before_and_spread(attempts: int, least: float) -> None:
    waits = {wait_seconds(attempts, 1.0, 0) for _ in range(50)}
    assert len(waits) > 40
    assert least <= min(waits) <= max(waits) <= least * 1.25


def test_a_receiver_may_ask_for_more_time_up_to_an_hour() -> None:
    assert wait_seconds(1, 1.0, 120) == 120
    assert wait_seconds(3, 1.0, 2) >= 16
    assert wait_seconds(1, 1.0, 10**9) == wait_seconds(5, 86_400.0, 0) == 3600


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "٣", "Wed, 99 Foo 2026 25:61:00 GMT"])
def test_what_is_no_time_asks_for_none(text: str) -> None:
    assert seconds_of(text) == 0


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("7", 7), ("9" * 400, 9_999_999_999)])
def test_a_time_may_be_in_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_a_time_may_be_a_date() -> None:
    assert 88 <= seconds_of(format_datetime(now() + timedelta(seconds=90), usegmt=True)) <= 90
    assert 88 <= seconds_of(format_datetime(now() + timedelta(seconds=90)).replace("+0000", "-0000")) <= 90
    assert seconds_of("Sun, 06 Nov 1994 08:49:37 GMT") == 0


def test_a_delivery_ends_when_it_is_taken_given_up_or_the_receiver_is_gone() -> None:
    assert outcome(Result(204, None), 6) is DeliveryStatus.DELIVERED
    assert [outcome(REFUSED, attempt) for attempt in (1, 5, 6)] == ["pending", "pending", "failed"]
    # One attempt more than allowed, where a process died in the last one.
    assert outcome(REFUSED, 7) is DeliveryStatus.FAILED
    assert outcome(Result(410, "The receiver answered 410"), 1) is DeliveryStatus.FAILED


def test_each_owner_has_a_secret_of_his_own_that_stays() -> None:
    signer = WebhookSigner("k" * 32)
    assert signer.secret("a") == WebhookSigner("k" * 32).secret("a")
    assert len({signer.secret("a"), signer.secret("b"), WebhookSigner("l" * 32).secret("a")}) == 3


def test_a_signature_holds_for_this_message_at_this_time_only() -> None:
    signer, message = WebhookSigner("k" * 32), new_id()
    signed = signer.sign("a", message, 1, "{}")
    others = [
        signer.sign("b", message, 1, "{}"),
        signer.sign("a", new_id(), 1, "{}"),
        signer.sign("a", message, 2, "{}"),
        signer.sign("a", message, 1, "{ }"),
    ]
    assert signed not in others
    assert signed == signer.sign("a", message, 1, "{}")


def test_older_secret_keys_sign_behind_the_newest() -> None:
    message = new_id()
    old = WebhookSigner("o" * 32).sign("a", message, 1, "{}")
    new = WebhookSigner("n" * 32).sign("a", message, 1, "{}")
    assert WebhookSigner("n" * 32, ["o" * 32]).sign("a", message, 1, "{}") == f"{new} {old}"
