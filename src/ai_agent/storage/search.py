"""Search in messages: the hits that match the most terms first, then the newest.

Both databases have an index of trigrams, which finds rare terms at once and common ones slowly, and messages in the
order of time, which find common terms at once and rare ones slowly. So the newest messages are looked through first, as
far as the hits among them promise a full page; otherwise the index is asked.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.visitors import replacement_traverse

from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.search import Alternative, SearchQuery, searchable
from ai_agent.storage.database import Reader
from ai_agent.storage.functions import contains, like_pattern
from ai_agent.storage.keyset import Bounds, Listing, Shape, Varying
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import messages

NEWEST, FARTHEST = 1000, 10_000
"""How many of an owner's messages are looked through before the index is asked, at first and at most."""
SEARCH_SECONDS = 10.0
"""All ranks of a search together; each of them has the database's own time besides."""
TRIGRAM = 3
LOOKED_UP = 32
"""How many characters of a term are looked up in the index: each costs a list to read, and these tell enough apart."""
COMBINATIONS = 20
_BEHIND_ALL = UUID(int=2**128 - 1)

_ONE, _NONE = sa.literal_column("1", sa.Integer), sa.literal_column("0", sa.Integer)
_LOOKED_AT = ("id", "owner_id", "session_id", "role", "agent_id", "search_text", "created_at")

Alternatives = tuple[Alternative, ...]


class in_trigram_index(FunctionElement[Any]):  # noqa: N801  # a SQL function's name
    """`in_trigram_index(id, query)`: whether SQLite's index has the message; PostgreSQL's stands behind LIKE itself."""

    type = sa.types.NULLTYPE  # As in `among`.
    inherit_cache = True


@compiles(in_trigram_index, "postgresql")
def _on_postgresql(element: FunctionElement[bool], compiler: SQLCompiler, **kw: Any) -> str:
    return "TRUE"


@compiles(in_trigram_index, "sqlite")
def _on_sqlite(element: FunctionElement[bool], compiler: SQLCompiler, **kw: Any) -> str:
    identity, query = (compiler.process(clause, **kw) for clause in element.clauses)
    found = "message_search JOIN message_search_rows ON message_search_rows.n = message_search.rowid"
    return f"{identity} IN (SELECT message_id FROM {found} WHERE message_search MATCH {query})"  # noqa: S608  # of compiled parts


def _has(term: int) -> contains:
    pattern, text = (sa.bindparam(f"{name}_{term}", type_=sa.Text) for name in ("pattern", "term"))
    return contains(messages.c.search_text, pattern, text)


def _may_have(term: int) -> contains:
    """Whether the beginning of a term is in the text."""
    pattern, text = (sa.bindparam(f"{name}_{term}", type_=sa.Text) for name in ("pattern_start", "start"))
    return contains(messages.c.search_text, pattern, text)


def _matches(alternatives: Alternatives) -> sa.ColumnElement[bool]:
    return sa.or_(
        *(
            sa.and_(*(_has(term) for term in one.required), *(sa.not_(_has(term)) for term in one.excluded))
            for one in alternatives
        )
    )


def _matching(terms: Iterable[int]) -> sa.ColumnElement[int]:
    """How many of the terms are in the text."""
    return sum((sa.case((_has(term), _ONE), else_=_NONE) for term in terms), _NONE)


def _parameters(query: SearchQuery) -> dict[str, Any]:
    terms = [searchable(term) for term in query.terms]
    parameters: dict[str, Any] = {}
    for number, term in enumerate(terms):
        start = term[:LOOKED_UP]
        parameters |= {f"term_{number}": term, f"pattern_{number}": like_pattern(term)}
        parameters |= {f"start_{number}": start, f"pattern_start_{number}": like_pattern(start)}
    return parameters


MATCHES = Varying(lambda query: query.alternatives, _matches, _parameters)
"""The filter `search` of a list of messages."""


class Hit(msgspec.Struct, frozen=True):
    """A message, and how many of the query's terms it matches."""

    rank: int
    id: UUID


class _Shape(msgspec.Struct, frozen=True):
    """What the text of a statement depends on."""

    filters: Shape
    alternatives: Alternatives
    terms: tuple[int, ...]
    """The terms that count."""
    rank: int | None
    combinations: tuple[tuple[int, ...], ...]
    """Terms of which some must be in the text together: what an index can find of a rank."""
    indexed: bool

    def conditions(self, listing: Listing[Any]) -> list[sa.ColumnElement[bool]]:
        """What a message must fulfil."""
        conditions = listing.matching(tuple(one for one in self.filters if one[0] != "search"))
        # Behind a CASE it is no reason to look for the terms in an index: what is, `in_index` says.
        conditions.append(sa.case((_matches(self.alternatives), _ONE), else_=_NONE) == _ONE)
        if self.rank is not None:
            conditions.append(_matching(self.terms) == sa.literal_column(str(self.rank)))
        return conditions

    def in_index(self) -> list[sa.ColumnElement[bool]]:
        """What an index finds, and among others all that fulfil the conditions."""
        found = [sa.or_(*(sa.and_(*map(_may_have, together)) for together in self.combinations))]
        if self.indexed:
            found.append(in_trigram_index(messages.c.id, sa.bindparam("trigrams", type_=sa.Text)))
        return found


class RankedSearch:
    """The hits of a search in pages, as a `Listing` has its rows. The filter's `search` is the query."""

    name = "search"
    identity = "id"

    def __init__(self, listing: Listing[Any], patient: Reader):
        self._listing = listing
        self._patient = patient
        self._of_newest = lru_cache(maxsize=256)(self._newest_statement)
        self._of_all = lru_cache(maxsize=256)(self._all_statement)
        self._count = lru_cache(maxsize=256)(self._count_statement)

    def sort_type(self, sort_by: str) -> type[int]:
        """Of the rank, the only order there is."""
        return int

    async def page(
        self, reader: Reader, owner: str, wanted: Any, sort_by: str, *, descending: bool, bounds: Bounds
    ) -> list[Hit]:
        """Rank by rank, most terms first: each is a list in the order of ids, so none is sorted as a whole."""
        room, after = bounds.limit + bounds.offset, bounds.after
        hits: list[Hit] = []
        try:
            async with asyncio.timeout(SEARCH_SECONDS):
                for rank in wanted.search.ranks:
                    if after is not None and rank > after.value:
                        continue
                    before = after.id if after is not None and rank == after.value else _BEHIND_ALL
                    found = await self._at_rank(reader, owner, wanted, rank, before, room - len(hits))
                    hits += [Hit(rank, identity) for identity in found]
                    if len(hits) == room:
                        break
        except TimeoutError as error:
            raise ServiceUnavailable("The search took too long; ask for fewer or longer terms") from error
        return hits[bounds.offset :]

    async def total(self, reader: Reader, owner: str, wanted: Any) -> int:
        shape, parameters = self._asked(wanted, None)
        return await self._patient.first(self._count(shape), owner=owner, **parameters) or 0

    async def _at_rank(
        self, reader: Reader, owner: str, wanted: Any, rank: int, before: UUID, room: int
    ) -> Sequence[UUID]:
        shape, parameters = self._asked(wanted, rank)
        parameters |= {"owner": owner, "before": before, "row_limit": room}
        far = NEWEST
        while far <= FARTHEST:
            try:
                newest = await reader.all(self._of_newest(shape), far=far, **parameters)
            except ServiceUnavailable:
                break  # Long messages take longer to look through than to look up.
            if len(newest) == room:
                return newest
            far = 2 * far * room // max(1, len(newest))
        return await self._patient.all(self._of_all(shape), **parameters)

    def _asked(self, wanted: Any, rank: int | None) -> tuple[_Shape, dict[str, Any]]:
        query: SearchQuery = wanted.search
        filters, parameters = self._listing.asked(wanted)
        together = _combinations(query, rank)
        trigrams = _trigrams(query, together)
        needed = rank if len(query.alternatives) > 1 else None
        shape = _Shape(filters, query.alternatives, query.positive, needed, together, trigrams is not None)
        return shape, parameters | {"trigrams": trigrams}

    def _newest_statement(self, shape: _Shape) -> Statement[UUID]:
        newest = (
            sa.select(*(messages.c[name] for name in _LOOKED_AT))
            .where(messages.c.owner_id == sa.bindparam("owner"), messages.c.id < sa.bindparam("before"))
            .order_by(messages.c.id.desc())
            .limit(sa.bindparam("far", type_=sa.Integer))
            .subquery("newest")
        )
        conditions = [_on(newest, condition) for condition in shape.conditions(self._listing)]
        found = sa.select(newest.c.id).where(*conditions).order_by(newest.c.id.desc())
        return Statement(found.limit(sa.bindparam("row_limit", type_=sa.Integer)), UUID)

    def _all_statement(self, shape: _Shape) -> Statement[UUID]:
        conditions = [*shape.conditions(self._listing), *shape.in_index(), messages.c.id < sa.bindparam("before")]
        # The offset keeps the planner from walking through all messages in their order, in hope of a common term.
        found = sa.select(messages.c.id).where(*conditions).offset(sa.literal_column("0")).subquery("found")
        ordered = sa.select(found.c.id).order_by(found.c.id.desc())
        return Statement(ordered.limit(sa.bindparam("row_limit", type_=sa.Integer)), UUID)

    def _count_statement(self, shape: _Shape) -> Statement[int]:
        conditions = [*shape.conditions(self._listing), *shape.in_index()]
        return Statement(sa.select(sa.func.count()).select_from(messages).where(*conditions), int)


def _on(subquery: sa.Subquery, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """The condition on the columns of a subquery of messages."""

    def column(element: Any, **_: Any) -> Any:
        return subquery.c[element.key] if isinstance(element, sa.Column) and element.table is messages else None

    return replacement_traverse(condition, {}, column)


def _combinations(query: SearchQuery, rank: int | None) -> tuple[tuple[int, ...], ...]:
    """So many terms as a hit of the rank matches, in every combination; where these are too many, the alternatives."""
    if rank is None or comb(len(query.positive), rank) > COMBINATIONS:
        return tuple(alternative.required for alternative in query.alternatives)
    return tuple(combinations(query.positive, rank))


def _trigrams(query: SearchQuery, together: tuple[tuple[int, ...], ...]) -> str | None:
    """What SQLite's index is asked; None when some combination has only terms that are shorter than a trigram."""
    parts = [_trigrams_of([searchable(query.terms[number])[:LOOKED_UP] for number in numbers]) for numbers in together]
    return " OR ".join(f"({part})" for part in parts) if all(parts) else None


def _trigrams_of(terms: list[str]) -> str:
    found = {term[start : start + TRIGRAM] for term in terms for start in range(len(term) - TRIGRAM + 1)}
    return " AND ".join('"' + trigram.replace('"', '""') + '"' for trigram in sorted(found))
