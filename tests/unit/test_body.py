"""Request bodies: every bad field at once, and no bytes that crash."""

import json
import time
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.api.body import decode
from ai_agent.domain.agents import CreateAgent, PatchAgent, Provider
from ai_agent.domain.errors import AIAgentError, FieldError, InvalidFields, MalformedRequest
from ai_agent.domain.executions import ExecuteAgent
from ai_agent.domain.fields import MAX_DEPTH, Input
from ai_agent.domain.messages import CreateMessage, PatchMessage
from ai_agent.domain.sessions import CreateSession, PatchSession

MODELS = [CreateSession, PatchSession, CreateAgent, PatchAgent, CreateMessage, PatchMessage, ExecuteAgent]


class Line(Input):
    text: str
    count: int = 1

    def check(self) -> list[FieldError]:
        return [] if self.text else [FieldError("text", "Must not be empty")]


class Order(Input):
    lines: list[Line]
    at: datetime | None = None
    first: Line | None = None


def bad(body: bytes | dict[str, Any], model: type[Input]) -> dict[str, str]:
    """What is told of each bad field."""
    with pytest.raises(InvalidFields) as caught:
        decode(body if isinstance(body, bytes) else json.dumps(body).encode(), model)
    return {error.field: error.message for error in caught.value.errors}


def test_a_good_body_becomes_its_struct() -> None:
    agent = decode(
        b'{"name": " Ada ", "model_config": {"provider": "openai", "top_p": 1}, "tools": ["a"]}', CreateAgent
    )
    assert (agent.name, agent.tools, agent.metadata) == ("Ada", ["a"], {})
    assert (agent.model_config.provider, agent.model_config.top_p) == (Provider.OPENAI, 1.0)


def test_all_bad_fields_are_named_at_once() -> None:
    body = {
        "name": "",
        "description": 5,
        "model_config": {"temperature": 9, "max_tokens": "many", "model": "m", "colour": "red"},
        "metadata": [],
        "owner": "me",
    }
    assert set(bad(body, CreateAgent)) == {
        "name",
        "description",
        "model_config.temperature",
        "model_config.max_tokens",
        "model_config.colour",
        "metadata",
        "owner",
    }


def test_an_error_shows_the_value_it_is_about() -> None:
    with pytest.raises(InvalidFields) as caught:
        decode(b'{"title": 5, "user_id": ""}', CreateSession)
    assert {error.field: error.value for error in caught.value.errors} == {"title": 5, "user_id": ""}


def test_a_bad_item_of_a_list_is_named_by_its_index() -> None:
    assert set(bad({"name": "a", "tools": ["a", "b", ""]}, CreateAgent)) == {"tools[2]"}


def test_bad_items_of_a_list_are_named_all() -> None:
    lines: list[object] = [{"text": "a"}, {"text": 5, "count": "x"}, {}, "line", {"text": "b", "price": 1}]
    body = {"lines": lines, "at": "today", "first": {"count": 1}}
    assert set(bad(body, Order)) == {
        "lines[1].text",
        "lines[1].count",
        "lines[2].text",
        "lines[3]",
        "lines[4].price",
        "at",
        "first.text",
    }


def test_what_a_struct_checks_itself_is_told_too() -> None:
    metadata: dict[str, Any] = {}
    for _ in range(8):
        metadata = {"a": metadata}
    assert set(bad({"name": "  ", "metadata": metadata}, CreateAgent)) == {"name", "metadata"}
    assert set(bad({"message": " \n", "metadata": metadata}, ExecuteAgent)) == {"message", "metadata"}


def test_what_an_inner_struct_checks_is_told_with_its_path() -> None:
    body = {"lines": [{"text": "a"}, {"text": ""}], "first": {"text": ""}}
    assert bad(body, Order) == {"lines[1].text": "Must not be empty", "first.text": "Must not be empty"}


def test_an_unknown_field_is_told() -> None:
    assert bad(b'{"titel": "x"}', CreateSession) == {"titel": "Is not a field of this object"}


def test_a_missing_field_is_told() -> None:
    assert bad(b"{}", ExecuteAgent) == {"message": "Is required"}


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"text"', b"true"])
def test_a_body_that_is_no_object_is_told(body: bytes) -> None:
    assert set(bad(body, CreateSession)) == {"body"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (rb'{"title": "a\u0000b"}', "title"),
        (rb'{"metadata": {"a": "\u0000"}}', "metadata.a"),
        (rb'{"metadata": {"a": [1, {"b": ["x", "\u0000"]}]}}', "metadata.a[1].b[1]"),
        (rb'{"metadata": {"a\u0000": 1}}', "metadata"),
        (rb'{"metadata": {"a": [{"\u0000": 1}]}}', "metadata.a[0]"),
    ],
)
def test_nul_characters_are_refused_at_any_depth(body: bytes, field: str) -> None:
    assert set(bad(body, CreateSession)) == {field}


def test_all_nul_characters_are_told() -> None:
    body = rb'{"title": "\u0000", "user_id": "\u0000", "metadata": {"a": "\u0000"}}'
    assert set(bad(body, CreateSession)) == {"title", "user_id", "metadata.a"}


def test_text_that_only_spells_a_nul_character_is_accepted() -> None:
    assert decode(rb'{"title": "\\u0000"}', CreateSession).title == r"\u0000"


@pytest.mark.parametrize(
    "text",
    ["[[[[" * 100, "{{{{" * 100, '"[' * 100, "\\" * 99 + '"' + "[" * 99, '\\"' * 99 + "{" * 99, "]" * 99 + "}" * 99],
)
def test_brackets_inside_strings_are_not_depth(text: str) -> None:
    body = json.dumps({"content": text, "metadata": {text: text}}).encode()
    assert decode(body, CreateMessage).content == text


def nested(levels: int, opening: str, closing: str) -> bytes:
    """A body of so many levels, the two of the body and its metadata among them."""
    inside = levels - 2
    return f'{{"metadata": {{"a": {opening * inside}1{closing * inside}}}}}'.encode()


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_body_of_64_levels_is_read_and_of_65_is_not(opening: str, closing: str) -> None:
    assert MAX_DEPTH == 64
    # Its metadata is too deep, which can only be told of a body that was read.
    assert set(bad(nested(64, opening, closing), CreateSession)) == {"metadata"}
    with pytest.raises(MalformedRequest, match="64"):
        decode(nested(65, opening, closing), CreateSession)


def test_many_brackets_beside_each_other_are_not_depth() -> None:
    body = json.dumps({"metadata": {"a": [[], {}] * 500}}).encode()
    assert len(decode(body, CreateSession).metadata["a"]) == 1000


@pytest.mark.parametrize("levels", [1000, 100_000])
def test_a_body_that_only_opens_is_malformed(levels: int) -> None:
    with pytest.raises(MalformedRequest):
        decode(b"[" * levels, CreateSession)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b'{"title"',
        b'{"title": "x"',
        b'{"title": "x',
        b'{"title": "x"} {}',
        b"{'title': 'x'}",
        b'{"title": NaN}',
        b'{"title": "a\nb"}',
        b'{"title": "\x00"}',
        b'{"title": "\xff"}',
        b'{"\xff": 1}',
        b'{"title": 5, "user_id": "\xff"}',
        b'{"metadata": {"\xff": "a"}}',
        b'\xef\xbb\xbf{"title": "x"}',
        '{"title": "x"}'.encode("utf-16"),
        rb'{"title": "\ud800"}',
        rb'{"title": "\x41"}',
    ],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        decode(body, CreateSession)


@pytest.mark.parametrize("number", ["1e400", "-1e999", "9" * 400, "9" * 5000])
def test_a_number_that_nothing_holds_is_a_bad_field(number: str) -> None:
    assert set(bad(f'{{"message": "x", "timeout_seconds": {number}}}'.encode(), ExecuteAgent)) == {"timeout_seconds"}


def test_ids_and_times_are_read_from_their_text() -> None:
    body = b'{"lines": [], "at": "2026-01-01T00:00:00Z"}'
    assert decode(body, Order).at == datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    text = "01890a5d-ac96-774b-bcce-b302099a8057"
    assert decode(f'{{"message": "x", "session_id": "{text}"}}'.encode(), ExecuteAgent).session_id == UUID(text)
    assert set(bad({"message": "x", "session_id": "1", "agent_id": 1}, ExecuteAgent)) == {"session_id", "agent_id"}


names = st.sampled_from(
    ["name", "title", "message", "content", "user_id", "metadata", "tools", "model_config", "tool_calls", "stream"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**50), 10**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(), inner, max_size=4),
    max_leaves=15,
)
bodies = values | st.dictionaries(names | st.text(), values, max_size=6)


def read(body: bytes, model: type[Input]) -> Input | AIAgentError:
    """The Struct, or the error that a client is told; any other error fails the test."""
    try:
        return decode(body, model)  # type: ignore[no-any-return]  # what it is depends on the model
    except AIAgentError as error:
        return error


@pytest.mark.parametrize("model", MODELS)
@given(value=bodies)
def test_any_json_becomes_its_struct_or_an_error_of_the_contract(model: type[Input], value: object) -> None:
    result = read(json.dumps(value).encode(), model)
    assert isinstance(result, model | InvalidFields)
    if isinstance(result, InvalidFields):
        assert result.errors
        assert all(error.message for error in result.errors)


@given(st.dictionaries(st.text(max_size=5), st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans(), max_size=5))
def test_metadata_is_kept_as_it_was_sent_unless_it_holds_nul_characters(metadata: dict[str, Any]) -> None:
    result = read(json.dumps({"metadata": metadata}).encode(), CreateSession)
    if "\0" in "".join(metadata) + "".join(v for v in metadata.values() if isinstance(v, str)):
        assert isinstance(result, InvalidFields)
    else:
        assert isinstance(result, CreateSession)
        assert result.metadata == metadata


@pytest.mark.parametrize("body", [b"[", b'"', b'{"title": 5', b'{"title": 5} x', b'{"title": 5, "user_id": tru}'])
def test_what_is_wrong_before_it_is_broken_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        decode(body, CreateSession)


@pytest.mark.parametrize("model", [CreateSession, CreateAgent, ExecuteAgent])
@given(body=st.binary(max_size=60) | st.text().map(str.encode))
def test_arbitrary_bytes_are_refused_in_the_way_of_the_contract(model: type[Input], body: bytes) -> None:
    with pytest.raises(AIAgentError):
        decode(body, model)
        raise MalformedRequest("accepted: fine too")


@given(st.data())
def test_a_good_body_that_was_cut_is_malformed(data: st.DataObject) -> None:
    body = b'{"name": "a", "tools": ["x", 5], "model_config": {"top_p": 7}, "metadata": {"a": [1, {}]}}'
    with pytest.raises(MalformedRequest):
        decode(body[: data.draw(st.integers(0, len(body) - 1))], CreateAgent)


def test_a_string_that_does_not_end_costs_no_more_than_its_length() -> None:
    started = time.perf_counter()
    with pytest.raises(MalformedRequest):
        decode(b"[" * 70 + b'"' + rb"\"" * 50_000, CreateSession)
    assert time.perf_counter() - started < 2


def test_all_bad_items_of_a_bounded_list_are_named() -> None:
    with pytest.raises(InvalidFields) as caught:
        decode(b'{"name": "a", "tools": ["", "b", 5]}', CreateAgent)
    assert {error.field for error in caught.value.errors} == {"tools[0]", "tools[2]"}
