"""A session: one conversation of an owner."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from ai_agent.domain.errors import FieldError, InvalidFields
from ai_agent.domain.fields import BULK, Input, JsonObject, Label, StoredObject, Title, check_metadata
from ai_agent.domain.pages import Filter, Page
from ai_agent.domain.resources import Resource

METADATA_FILTERS = 10


class SessionStatus(StrEnum):
    """Derived from the session's executions, and stored with the change that causes it."""

    IDLE = "idle"
    ACTIVE = "active"
    WAITING = "waiting"


class Session(Resource):
    """One conversation of its owner."""

    id: UUID
    user_id: str | None
    title: str | None
    metadata: StoredObject
    message_count: int
    last_activity: datetime
    status: SessionStatus
    created_at: datetime
    updated_at: datetime


class SessionPage(Page):
    """Sessions of a list."""

    items: list[Session]


class CreateSession(Input):
    """A new session. Every field has a default."""

    user_id: Label | None = None
    title: Title | None = None
    metadata: JsonObject = {}

    def check(self) -> list[FieldError]:
        self.title = self.title.strip() if self.title else self.title
        return check_metadata(self.metadata)


CreateSessions = Annotated[list[CreateSession], Meta(min_length=1, max_length=BULK)]
SessionIds = Annotated[list[UUID], Meta(min_length=1, max_length=BULK)]


class ReplaceSession(CreateSession):
    """PUT: what is absent goes back to its default."""


class PatchSession(Input):
    """JSON Merge Patch: what is absent stays, null clears."""

    user_id: Label | None | UnsetType = UNSET
    title: Title | None | UnsetType = UNSET
    metadata: JsonObject | None | UnsetType = UNSET

    def check(self) -> list[FieldError]:
        self.title = self.title.strip() if self.title else self.title
        return check_metadata(self.metadata)


class ForkSession(Input):
    """Up to which message a session is copied, by default the newest; a title of its own, by default the source's."""

    from_message_id: UUID | None = None
    title: Title | None | UnsetType = UNSET

    def check(self) -> list[FieldError]:
        self.title = self.title.strip() if self.title else self.title
        return []


class SessionFilter(Filter, frozen=True, kw_only=True):
    user_id: str | None = None
    status: SessionStatus | None = None
    search: str | None = None
    metadata: tuple[tuple[str, str], ...] | None = None


def metadata_filter(pairs: list[str] | None) -> tuple[tuple[str, str], ...] | None:
    """Key and value of each `<key>:<value>`. Raises InvalidFields for `metadata`."""
    if not pairs:
        return None
    if len(pairs) > METADATA_FILTERS:
        raise InvalidFields([FieldError("metadata", f"Is given more than {METADATA_FILTERS} times")])
    split = [pair.partition(":") for pair in pairs]
    if errors := [FieldError("metadata", "Must be <key>:<value>", "".join(s)) for s in split if not (s[0] and s[1])]:
        raise InvalidFields(errors)
    return tuple((key, value) for key, _, value in split)
