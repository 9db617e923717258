"""The secret box: what is sealed opens in its own place only, under the keys that are there."""

import base64
from uuid import UUID

import msgspec
import pytest

from ai_agent.domain.errors import InvalidFields
from ai_agent.domain.fields import new_id
from ai_agent.security.api_keys import KeyHasher
from ai_agent.security.secret_box import SecretBox, UnreadableSecret
from ai_agent.security.secret_fields import NO_SECRETS, SecretFields

OLD, NEW, OTHER = ("old" * 12, "new" * 12, "other" * 8)
PLACE = "agents/1/model_config.api_key"
ROW = UUID(int=7)


def test_what_is_sealed_opens_again_and_shows_nothing() -> None:
    box = SecretBox(NEW)
    for text in ("", "sk-canary-1234567890", "Grüße 👋" * 1000):
        sealed = box.seal(text, PLACE)
        assert box.open(sealed, PLACE) == text
        assert not text or text not in sealed


def test_sealing_twice_gives_two_texts() -> None:
    assert SecretBox(NEW).seal("same", PLACE) != SecretBox(NEW).seal("same", PLACE)


def test_the_keys_name_stands_in_front_and_the_key_does_not() -> None:
    names = {SecretBox(key).seal("x", PLACE).partition(".")[0] for key in (OLD, NEW, NEW)}
    assert len(names) == 2
    assert all(len(name) == 8 and name not in OLD + NEW for name in names)


@pytest.mark.parametrize(
    "place", ["agents/2/model_config.api_key", "agents/1/other", "tools/1/model_config.api_key", ""]
)
def test_a_secret_in_another_place_does_not_open(place: str) -> None:
    box = SecretBox(NEW)
    with pytest.raises(UnreadableSecret):
        box.open(box.seal("x", PLACE), place)


@pytest.mark.parametrize("at", [0, 12, -1])
def test_a_changed_secret_does_not_open(at: int) -> None:
    key_id, _, body = SecretBox(NEW).seal("secret", PLACE).partition(".")
    raw = bytearray(base64.b64decode(body))
    raw[at] ^= 1
    with pytest.raises(UnreadableSecret):
        SecretBox(NEW).open(f"{key_id}.{base64.b64encode(raw).decode()}", PLACE)


@pytest.mark.parametrize("text", ["", ".", "x", "x.y", "\0.\0", "*" * 50])
def test_what_was_never_sealed_does_not_open(text: str) -> None:
    key_id = SecretBox(NEW).seal("", PLACE).partition(".")[0]
    for sealed in (text, f"{key_id}.{text}"):
        with pytest.raises(UnreadableSecret):
            SecretBox(NEW).open(sealed, PLACE)


def test_older_keys_open_what_they_sealed_and_seal_nothing_more() -> None:
    sealed = SecretBox(OLD).seal("kept", PLACE)
    both = SecretBox(NEW, [OTHER, OLD])
    assert both.open(sealed, PLACE) == "kept"
    assert SecretBox(NEW).open(both.seal("fresh", PLACE), PLACE) == "fresh"
    with pytest.raises(UnreadableSecret):
        SecretBox(NEW).open(sealed, PLACE)


def test_a_secret_is_resealed_once() -> None:
    both = SecretBox(NEW, [OLD])
    fresh = both.reseal(SecretBox(OLD).seal("kept", PLACE), PLACE)
    assert SecretBox(NEW).open(fresh, PLACE) == "kept"
    assert both.reseal(fresh, PLACE) == fresh


def test_the_secrets_of_a_row_are_kept_changed_and_removed() -> None:
    fields = SecretFields(SecretBox(NEW), "servers")
    first = fields.seal(ROW, {"token": "one", "header": "two"}, NO_SECRETS)
    second = fields.seal(ROW, {"token": "***", "header": None}, first)
    assert (fields.open(ROW, second, "token"), fields.open(ROW, second, "header")) == ("one", None)
    assert msgspec.json.decode(second)["token"] == msgspec.json.decode(first)["token"]
    third = fields.seal(ROW, {"token": "three"}, second)
    assert fields.open(ROW, third, "token") == "three"


def test_a_secret_that_is_not_there_cannot_be_kept() -> None:
    with pytest.raises(InvalidFields) as caught:
        SecretFields(SecretBox(NEW), "servers").seal(ROW, {"token": "***"}, NO_SECRETS)
    assert [error.field for error in caught.value.errors] == ["token"]


@pytest.mark.parametrize(("resource", "row"), [("tools", ROW), ("servers", new_id())])
def test_a_column_that_was_moved_to_another_row_does_not_open(resource: str, row: UUID) -> None:
    box = SecretBox(NEW)
    column = SecretFields(box, "servers").seal(ROW, {"token": "one"}, NO_SECRETS)
    with pytest.raises(UnreadableSecret):
        SecretFields(box, resource).open(row, column, "token")


def test_a_column_is_resealed_when_it_has_to_be() -> None:
    column = SecretFields(SecretBox(OLD), "servers").seal(ROW, {"token": "one"}, NO_SECRETS)
    both = SecretFields(SecretBox(NEW, [OLD]), "servers")
    fresh = both.reseal(ROW, column)
    assert fresh is not None
    assert both.reseal(ROW, fresh) is None
    assert SecretFields(SecretBox(NEW), "servers").open(ROW, fresh, "token") == "one"


def test_api_keys_are_looked_for_under_the_newest_key_first() -> None:
    digests = KeyHasher(NEW, [OLD]).digests("sk-test")
    assert digests == [KeyHasher(NEW).digest("sk-test"), KeyHasher(OLD).digest("sk-test")]
