"""A session: one conversation of an owner."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from msgspec import UNSET, UnsetType

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import Input, JsonObject, Label, StoredObject, Title, check_metadata
from ai_agent.domain.pages import Filter, Page
from ai_agent.domain.resources import Resource


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


class SessionFilter(Filter, frozen=True, kw_only=True):
    user_id: str | None = None
    status: SessionStatus | None = None
