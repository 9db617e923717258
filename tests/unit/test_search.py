"""The query language of search, and snippets: whatever the text, in any script."""

import html
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.domain.errors import InvalidFields
from ai_agent.domain.search import (
    FILLER,
    SNIPPET_LENGTH,
    TERMS,
    Alternative,
    SearchQuery,
    fold,
    parse,
    searchable,
    snippet,
)


def alternatives(search: str) -> list[tuple[list[str], list[str]]]:
    query = parse(search)
    return [
        ([query.terms[n] for n in one.required], [query.terms[n] for n in one.excluded]) for one in query.alternatives
    ]


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("word", [(["word"], [])]),
        ("  Two  WORDS ", [(["two", "words"], [])]),
        ('"a Phrase" more', [(["a phrase", "more"], [])]),
        ('a -b -"c d"', [(["a"], ["b", "c d"])]),
        ("a b or c", [(["a", "b"], []), (["c"], [])]),
        ("a OR b Or c", [(["a"], []), (["b"], []), (["c"], [])]),
        ("or a or or b or", [(["a"], []), (["b"], [])]),
        ('"or" a', [(["or", "a"], [])]),
        ("a a A", [(["a"], [])]),
        ("a or a", [(["a"], [])]),
        ('"unclosed phrase', [(["unclosed phrase"], [])]),
        ('a "" -', [(["a"], [])]),
        ("--a b", [(["b"], ["-a"])]),
        ('in"side b', [(['in"side', "b"], [])]),
        ("semi-colon", [(["semi-colon"], [])]),
    ],
)
def test_a_query_is_alternatives_of_terms(search: str, expected: object) -> None:
    assert alternatives(search) == expected


@pytest.mark.parametrize("search", ["", "a", "  a  ", "-ab", "a or -b", "or", '""', "ab\0c", "x" * 201, "a " * 17])
def test_what_is_no_query_is_refused_by_the_name_of_the_field(search: str) -> None:
    with pytest.raises(InvalidFields) as refused:
        parse(search, "q")
    assert [error.field for error in refused.value.errors] == ["q"]


words = st.sampled_from(["a", "-", '"', "or", "OR", " ", "\t", "ß", "Σ", "東", "\u0301", "-x", '"y z"', "%", "\\"])


@given(st.text(max_size=250) | st.lists(words, max_size=60).map("".join))
def test_any_text_is_a_query_or_refused(search: str) -> None:
    try:
        query = parse(search)
    except InvalidFields:
        return
    assert 1 <= len(query.terms) <= TERMS
    assert all(query.terms)
    assert all(alternative.required for alternative in query.alternatives)
    assert list(query.ranks) == sorted(query.ranks, reverse=True)
    assert query.ranks[0] == len(query.positive)


@given(st.text())
def test_case_and_composition_do_not_matter(text: str) -> None:
    for other in (unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text)):
        assert fold(other) == fold(text)
    assert fold(text.casefold()) == fold(fold(text))


SAME = [("ПРИВЕТ", "привет"), ("Σας", "ΣΑΣ"), ("Straße", "STRASSE"), ("é", "E\u0301")]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_words_that_readers_take_for_the_same_are_folded_to_the_same(one: str, other: str) -> None:
    assert fold(one) == fold(other)


syllables = st.text("ab 東京都の한국", max_size=12)


@given(syllables, syllables)
def test_a_part_of_the_text_stays_a_part_when_both_are_made_searchable(text: str, part: str) -> None:
    assert (searchable(part) in searchable(text)) == (part in text)


@pytest.mark.parametrize("term", ["京", "東京", "한국", "の"])
def test_terms_of_syllables_are_long_enough_for_an_index(term: str) -> None:
    assert len(searchable(term)) >= 3


def test_the_filler_is_in_no_folded_text() -> None:
    assert fold(f"a{FILLER}b") == "ab"


def test_a_snippet_shows_the_surroundings_of_the_first_match() -> None:
    shown = snippet("x" * 500 + " needle " + "y" * 500, parse("needle"))
    assert "<mark>needle</mark>" in shown
    assert (shown[0], shown[-1]) == ("…", "…")
    assert len(shown) == SNIPPET_LENGTH + len("……<mark></mark>")
    assert snippet("needle " + "y" * 500, parse("needle")).startswith("<mark>needle</mark> y")
    assert snippet("short needle", parse("needle")) == "short <mark>needle</mark>"


def test_a_snippet_is_cut_from_the_text_as_it_was_written() -> None:
    assert snippet("Die STRASSE, die Straße", parse("straße")) == "Die <mark>STRASSE</mark>, die <mark>Straße</mark>"
    assert snippet("ein Maß", parse('"as"  or ma')) == "ein <mark>Maß</mark>"
    assert snippet("ΐΐ ΣΑΣ", parse("σας")) == "ΐΐ <mark>ΣΑΣ</mark>"


def test_matches_that_touch_are_marked_as_one() -> None:
    assert snippet("abcdef", parse("abc or cde")) == "<mark>abcde</mark>f"
    assert snippet("aaaa", parse("aa")) == "<mark>aaaa</mark>"


def test_a_long_match_is_shown_whole() -> None:
    term = "word " * 38 + "end"
    assert f"<mark>{term}</mark>" in snippet(f"{'x' * 300} {term} {'y' * 300}", parse(f'"{term}"'))


@given(st.text("aß&<Σ東 \u0301ΐ", max_size=400), st.text("aßsΣ東&<", min_size=2, max_size=4))
def test_a_snippet_is_safe_html_of_a_part_of_the_text(content: str, search: str) -> None:
    query = SearchQuery((fold(search),), (Alternative((0,), ()),))
    shown = snippet(content, query)
    bare = re.sub("</?mark>", "", shown)
    assert "<" not in bare
    assert html.unescape(bare).strip("…") in unicodedata.normalize("NFC", content)
    assert ("<mark>" in shown) == (query.terms[0] in fold(content))


@pytest.mark.parametrize("place", [0, 1, 1000, 1023, 1024, 1025, 3000, 4095, 4096, 9_000])
def test_a_snippet_of_a_long_text_is_cut_at_its_match_whatever_folding_adds(place: int) -> None:
    content = "ßİ" * (place // 2) + "ß" * (place % 2) + " Needle " + "ßx" * 5000
    shown = snippet(content, parse("needle"))
    assert "<mark>Needle</mark>" in shown
    plain = shown.replace("<mark>", "").replace("</mark>", "")
    assert plain.startswith("…") is (place > 60)
    assert plain.endswith("…")
    assert plain.strip("…") in content
    assert len(plain.strip("…")) == 200
