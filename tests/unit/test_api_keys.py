"""API keys: well formed, refused with any typo, and stored in a form that helps nobody."""

import re
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.security.api_keys import API_KEY, REFRESH_TOKEN, TICKET, KeyHasher, Kind, generate, well_formed

BASE62 = string.ascii_letters + string.digits
environments = st.text(BASE62, min_size=1, max_size=12)


def test_a_key_is_prefix_environment_random_and_checksum() -> None:
    assert re.fullmatch(r"sk-production-[A-Za-z0-9]{24}[A-Za-z0-9]{6}", generate("production"))


def test_keys_differ() -> None:
    assert len({generate("test") for _ in range(100)}) == 100


def test_a_key_made_elsewhere_by_the_same_rule_is_well_formed() -> None:
    # CRC32 of the body is 0xB09827EC; digits, upper case, lower case; most significant first.
    assert well_formed("sk-test-" + "A" * 24 + "3EVRfA")


@given(environments)
def test_every_generated_key_is_well_formed(environment: str) -> None:
    assert well_formed(generate(environment))


@given(environments, st.data())
def test_any_changed_character_is_refused(environment: str, data: st.DataObject) -> None:
    key = generate(environment)
    index = data.draw(st.integers(0, len(key) - 1))
    other = data.draw((st.sampled_from(BASE62 + "-_") | st.characters()).filter(lambda c: c != key[index]))
    assert not well_formed(key[:index] + other + key[index + 1 :])


@given(environments, st.data())
def test_two_swapped_characters_are_refused(environment: str, data: st.DataObject) -> None:
    key = generate(environment)
    index = data.draw(st.integers(0, len(key) - 8).filter(lambda i: key[i] != key[i + 1]))
    assert not well_formed(key[:index] + key[index + 1] + key[index] + key[index + 2 :])


@given(st.text())
def test_text_that_is_no_key_is_refused(text: str) -> None:
    assert not well_formed(text)
    assert not well_formed(f"sk-{text}-{text}")


def test_letters_of_other_alphabets_are_refused_although_the_checksum_is_right() -> None:
    assert not well_formed(generate("tést"))


@pytest.mark.parametrize("change", [str.upper, lambda key: key + "0", lambda key: key[:-1], lambda key: f" {key}"])
def test_a_key_with_something_more_or_less_is_refused(change: Callable[[str], str]) -> None:
    assert not well_formed(change(generate("test")))


def test_a_digest_is_always_the_same_for_one_secret_and_another_for_another() -> None:
    key, hasher = generate("test"), KeyHasher("s" * 32)
    assert hasher.digest(key) == KeyHasher("s" * 32).digest(key)
    assert hasher.digest(key) != KeyHasher("t" * 32).digest(key)
    assert hasher.digest(key) != hasher.digest(generate("test"))


def test_a_digest_contains_nothing_of_the_key() -> None:
    key = generate("test")
    digest = KeyHasher("s" * 32).digest(key)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert key.rpartition("-")[2] not in digest


def test_a_secret_of_one_kind_is_none_of_another_and_has_another_digest() -> None:
    for kind in (API_KEY, REFRESH_TOKEN, TICKET):
        text = generate("test", kind)
        assert [other for other in (API_KEY, REFRESH_TOKEN, TICKET) if well_formed(text, other)] == [kind]
    digests = {KeyHasher("s" * 32, kind=kind).digest("same") for kind in (API_KEY, REFRESH_TOKEN, TICKET)}
    assert len(digests) == 3


@pytest.mark.parametrize("kind", [REFRESH_TOKEN, TICKET])
def test_what_cannot_be_guessed_has_256_random_bits(kind: Kind) -> None:
    assert re.fullmatch(rf"{kind.prefix}-test-[A-Za-z0-9]{{43}}[A-Za-z0-9]{{6}}", generate("test", kind))
