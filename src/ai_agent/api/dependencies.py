"""What handlers are given: services made once, and the page that a list's parameters ask for."""

from typing import Any

from litestar import Request
from litestar.datastructures import State
from litestar.di import Provide

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest

Caller = Request[Principal, None, State]
"""A request whose `user` is the authenticated Principal."""


def given(value: Any) -> Provide:
    """A dependency that is always the same object."""
    return Provide(lambda: value, sync_to_thread=False, use_cache=True)


def page_request(
    *,
    limit: int,
    cursor: str | None,
    offset: int,
    include_total: bool,
    sort_by: str,
    sort_order: str,
    sortable: tuple[str, ...],
) -> PageRequest:
    """Raises InvalidFields for a column that the list cannot be sorted by."""
    if sort_by not in sortable:
        raise InvalidFields([FieldError("sort_by", f"Must be one of {', '.join(sortable)}", sort_by[:200])])
    return PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
