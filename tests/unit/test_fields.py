"""What fields of several resources share: patches, bounds, ids."""

import copy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.domain.errors import InvalidFields
from ai_agent.domain.fields import (
    CONTENT_BYTES,
    METADATA_BYTES,
    METADATA_DEPTH,
    check_content,
    check_metadata,
    depth,
    merge_patch,
    new_id,
    now,
)
from ai_agent.domain.messages import CreateMessage
from ai_agent.domain.sessions import CreateSession


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    # The examples of RFC 7396, appendix A.
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
    ],
)
def test_a_merge_patch_does_what_the_rfc_shows(target: object, patch: object, result: object) -> None:
    assert merge_patch(target, patch) == result


@pytest.mark.parametrize("value", [0, False, "", [], 0.0])
def test_only_null_removes(value: object) -> None:
    assert merge_patch({"a": 1}, {"a": value}) == {"a": value}


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=3), json, max_size=4)


@given(objects, objects)
def test_a_patch_applied_twice_changes_nothing_more(target: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


@given(objects, objects)
def test_a_patch_leaves_what_it_is_applied_to_alone(target: dict[str, Any], patch: dict[str, Any]) -> None:
    before = copy.deepcopy((target, patch))
    merge_patch(target, patch)
    assert (target, patch) == before
    assert merge_patch(target, {}) == target


@pytest.mark.parametrize(
    ("value", "levels"),
    [(1, 0), ("[[", 0), ({}, 1), ([], 1), ({"a": []}, 2), ({"a": 1, "b": {"c": [{}]}}, 4), ([[], [[]]], 3)],
)
def test_depth_counts_lists_and_objects(value: object, levels: int) -> None:
    assert depth(value) == levels


def test_depth_of_what_is_nested_beyond_recursion_is_counted() -> None:
    value: list[Any] = []
    for _ in range(99_999):
        value = [value]
    assert depth(value) == 100_000
    while value:
        value = value[0]


def nested(levels: int) -> dict[str, Any]:
    """An object of so many levels."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def sized(size: int, letter: str = "x") -> dict[str, Any]:
    """An object of so many bytes as JSON."""
    room = size - len('{"a":""}')
    letters = room // len(letter.encode())
    return {"a": letter * letters + "x" * (room - letters * len(letter.encode()))}


def test_metadata_of_8_levels_is_accepted_and_of_9_is_not() -> None:
    assert METADATA_DEPTH == 8
    assert check_metadata(nested(8)) == []
    assert [error.field for error in check_metadata(nested(9))] == ["metadata"]


@pytest.mark.parametrize("letter", ["x", "ü", "👋"])
def test_metadata_of_16_kib_is_accepted_and_of_a_byte_more_is_not(letter: str) -> None:
    assert METADATA_BYTES == 16_384
    assert check_metadata(sized(16_384, letter)) == []
    assert [error.field for error in check_metadata(sized(16_385, letter))] == ["metadata"]


def test_metadata_out_of_bounds_makes_no_session() -> None:
    with pytest.raises(InvalidFields) as caught:
        CreateSession(metadata=nested(9))
    assert [error.field for error in caught.value.errors] == ["metadata"]


@pytest.mark.parametrize("letter", ["x", "ü", "語", "👋"])
def test_content_of_1_mib_in_utf_8_is_accepted_and_of_a_byte_more_is_not(letter: str) -> None:
    assert CONTENT_BYTES == 1_048_576
    width = len(letter.encode())
    longest = letter * (CONTENT_BYTES // width) + "x" * (CONTENT_BYTES % width)
    assert check_content("content", longest) == []
    assert [error.field for error in check_content("content", longest + "x")] == ["content"]


def test_content_that_is_too_long_shows_only_its_start() -> None:
    with pytest.raises(InvalidFields) as caught:
        CreateMessage(content="ü" * CONTENT_BYTES)
    assert [error.value for error in caught.value.errors] == ["ü" * 200]


def test_ids_are_of_version_7_and_sort_in_the_order_in_which_they_were_made() -> None:
    ids = [new_id() for _ in range(1000)]
    assert {identity.version for identity in ids} == {7}
    assert sorted(ids) == ids
    assert len(set(ids)) == 1000


def test_now_has_a_time_zone() -> None:
    assert now().utcoffset() == timedelta(0)
