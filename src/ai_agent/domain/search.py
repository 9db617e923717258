"""The query language of search, and the marked snippet of a hit. Pure: both databases are asked the same.

`word`, `"a phrase"`, `-word`, and `or` between terms; what stands beside each other must match together, and binds
tighter than `or`, as in PostgreSQL's `websearch_to_tsquery`. A term matches anywhere in the text.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from html import escape
from itertools import accumulate
from typing import NamedTuple

import msgspec

from ai_agent.domain.errors import FieldError, InvalidFields

SHORTEST, LONGEST = 2, 200
TERMS = 16
SNIPPET_LENGTH = 200
_CHUNK = 1024
_LEAD = 60
"""How much of a snippet stands before its first match."""

FILLER = "\u115f"
"""A letter to the databases and nothing to readers (HANGUL CHOSEONG FILLER)."""
# Kana, Chinese characters, Hangul.
_SYLLABLES = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+")

_TOKEN = re.compile(r'(?P<minus>-?)"(?P<phrase>[^"]*)(?:"|$)|(?P<word>\S+)')


def fold(text: str) -> str:
    """Text as it is compared: composed (NFC) and case-folded, so that case and spelling of accents do not matter.

    Character by character, whatever stands beside it. Source: The Unicode Standard, 3.13, "Default Caseless Matching".
    """
    return unicodedata.normalize("NFC", text).casefold().replace(FILLER, "")


def searchable(folded: str) -> str:
    """Folded text as it is stored and looked for: characters that are a syllable or a word have fillers around them.

    Indexes know nothing shorter than three characters; so they find two, or one, of these.
    """
    return _SYLLABLES.sub(lambda run: FILLER + "".join(character + FILLER for character in run[0]), folded)


class Alternative(msgspec.Struct, frozen=True):
    """Terms that must all match, and terms that must not; numbers of the query's terms."""

    required: tuple[int, ...]
    excluded: tuple[int, ...]


class SearchQuery(msgspec.Struct, frozen=True):
    """Folded terms, each once, and the alternatives of which one must hold."""

    terms: tuple[str, ...]
    alternatives: tuple[Alternative, ...]

    @property
    def positive(self) -> tuple[int, ...]:
        """The terms whose matches count."""
        return tuple(sorted({term for alternative in self.alternatives for term in alternative.required}))

    @property
    def ranks(self) -> range:
        """How many terms a hit can match, most first."""
        fewest = min(len(alternative.required) for alternative in self.alternatives)
        return range(len(self.positive), fewest - 1, -1)


class _Token(NamedTuple):
    text: str
    excluded: bool


def parse(search: str, field: str = "search") -> SearchQuery:
    """Raises InvalidFields for `field`."""
    text = checked(search, field)
    groups = [group for group in _groups(text) if group]
    if sum(map(len, groups)) > TERMS:
        raise InvalidFields([FieldError(field, f"Has more than {TERMS} terms", search)])
    if not groups or any(all(token.excluded for token in group) for group in groups):
        raise InvalidFields([FieldError(field, "Needs a term without a minus, on each side of `or`", search)])
    terms = tuple(dict.fromkeys(token.text for group in groups for token in group))
    alternatives = [Alternative(_numbers(group, terms, False), _numbers(group, terms, True)) for group in groups]
    return SearchQuery(terms, tuple(dict.fromkeys(alternatives)))


def checked(search: str, field: str = "search") -> str:
    """The text without outer white space. Raises InvalidFields for `field` when it is too short or too long."""
    text = search.strip()
    if "\0" in text:
        raise InvalidFields([FieldError(field, "Must not contain NUL characters")])
    if not SHORTEST <= len(text) <= LONGEST:
        raise InvalidFields([FieldError(field, f"Must have {SHORTEST} to {LONGEST} characters", search)])
    return text


def _groups(text: str) -> list[list[_Token]]:
    """The terms between the `or`s; an `or` without terms on both sides leaves an empty group."""
    groups: list[list[_Token]] = [[]]
    for match in _TOKEN.finditer(text):
        word: str | None = match["word"]
        if word is not None and word.lower() == "or":
            groups.append([])
            continue
        content = match["phrase"] if word is None else word.removeprefix("-")
        minus = match["minus"] == "-" if word is None else word.startswith("-")
        if content.strip():
            groups[-1].append(_Token(fold(content), minus))
    return groups


def _numbers(group: list[_Token], terms: tuple[str, ...], excluded: bool) -> tuple[int, ...]:
    return tuple(sorted({terms.index(token.text) for token in group if token.excluded == excluded}))


def snippet(content: str, query: SearchQuery) -> str:
    """Some 200 characters around the first match as HTML: text escaped, matches in `<mark>`, `…` where it is cut."""
    text = unicodedata.normalize("NFC", content).replace(FILLER, "")
    folded = text.casefold()
    terms = [query.terms[number] for number in query.positive]
    starts = [(place, len(term)) for term in terms if (place := folded.find(term)) >= 0]
    if not starts:
        return _cut(text, 0, min(len(text), SNIPPET_LENGTH), [])
    place, length = min(starts)
    if len(text) != len(folded):
        # Only what is near is looked at character by character.
        text, skipped = _near(text, place)
        folded, place = text.casefold(), place - skipped
    origin = _Origin(text, folded)
    first, last = origin.span(place, place + length)
    begin = max(0, min(first - _LEAD, len(text) - SNIPPET_LENGTH))
    end = min(len(text), max(begin + SNIPPET_LENGTH, last))
    inside = origin.folded(begin), origin.folded(end)
    return _cut(text, begin, end, _merged(origin.span(*match) for match in _matches(folded, terms, *inside)))


def _near(text: str, place: int) -> tuple[str, int]:
    """The text around a place of its folded form, and how much of that form stands before it."""
    lengths = [len(text[start : start + _CHUNK].casefold()) for start in range(0, len(text), _CHUNK)]
    ends = list(accumulate(lengths))
    first = max(0, bisect_right(ends, place) - 1)
    return text[first * _CHUNK : (first + 4) * _CHUNK], sum(lengths[:first])


class _Origin:
    """Which characters of a text became which of its folded form, where one may become three."""

    def __init__(self, text: str, folded: str):
        # Folding never shortens: where the lengths are equal, each character became one.
        longer = len(text) != len(folded)
        self._ends = list(accumulate(len(character.casefold()) for character in text)) if longer else None

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """Of the text, for a span of the folded form."""
        if self._ends is None:
            return begin, end
        return bisect_right(self._ends, begin), bisect_left(self._ends, end) + 1

    def folded(self, place: int) -> int:
        """Where the folded form of the text before a place ends."""
        if self._ends is None or place == 0:
            return place
        return self._ends[place - 1]


def _matches(folded: str, terms: list[str], begin: int, end: int) -> Iterator[tuple[int, int]]:
    for term in terms:
        for match in re.compile(re.escape(term)).finditer(folded, begin, end):
            yield match.span()


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order; those that overlap or touch are one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


def _cut(text: str, begin: int, end: int, marks: list[tuple[int, int]]) -> str:
    parts, place = ["…" if begin else ""], begin
    for start, stop in marks:
        parts += [escape(text[place:start]), "<mark>", escape(text[start:stop]), "</mark>"]
        place = stop
    return "".join([*parts, escape(text[place:end]), "…" if end < len(text) else ""])
