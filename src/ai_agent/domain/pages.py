"""What a client asks of a list, whatever it lists."""

from datetime import datetime

import msgspec

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.fields import time_fault


class PageRequest(msgspec.Struct, frozen=True):
    """One page of a list: how many, from where, in which order."""

    limit: int
    cursor: str | None
    offset: int
    include_total: bool
    sort_by: str
    descending: bool


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows of a list: all that match every filter that is set."""

    created_after: datetime | None = None
    created_before: datetime | None = None

    def __post_init__(self) -> None:
        times = {"created_after": self.created_after, "created_before": self.created_before}
        wrong = {name: (time, time_fault(time)) for name, time in times.items() if time is not None}
        if errors := [FieldError(name, fault, time) for name, (time, fault) in wrong.items() if fault]:
            raise InvalidFields(errors)


class Page(msgspec.Struct, kw_only=True):
    """The shape of every list. Subclasses add `items`, so that each has a name and a type of its own."""

    next_cursor: str | None = None
    has_more: bool = False
    total: int | None = None
