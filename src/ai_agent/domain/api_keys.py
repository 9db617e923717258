"""An API key as it is shown: never the key itself, which is told once when it is made."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import Holds, Input, Label, Name, StoredJson, future_fault
from ai_agent.domain.identity import BUILT_IN, Scope, Tier
from ai_agent.domain.pages import Filter, Page

ADMIN_KEY_FILE = "admin.key"
"""In the data directory of an embedded server: opens it for clients of the same machine."""

LABEL_LENGTH = 255
MAX_OVERLAP_SECONDS = 7 * 24 * 3600


class ApiKey(msgspec.Struct):
    """What a caller may do, and until when. `last_used_at` is at most a minute behind."""

    id: UUID
    name: str
    owner_id: str
    scopes: Annotated[StoredJson, Holds(list[Scope])]
    tier: Tier
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_to: UUID | None
    last_used_at: datetime | None
    created_at: datetime

    def scope_set(self) -> frozenset[str]:
        return frozenset(msgspec.json.decode(self.scopes, type=list[str]))

    def expired(self, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at


class NewApiKey(ApiKey):
    """A key with its text, shown this once."""

    key: str


class ApiKeyPage(Page):
    """API keys of a list."""

    items: list[ApiKey]


class ApiKeyFilter(Filter, frozen=True, kw_only=True):
    owner_id: str | None = None


class CreateApiKey(Input):
    """A new key. Without an owner it is the caller's own."""

    name: Name
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=64)]
    owner_id: Label | None = None
    tier: Tier = Tier.AUTHENTICATED
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None

    def check(self) -> list[FieldError]:
        self.name = self.name.strip()
        labels = {"name": self.name, "owner_id": self.owner_id}
        message = f"Must have 1 to {LABEL_LENGTH} characters that can be seen"
        errors = [FieldError(field, message, text) for field, text in labels.items() if not _readable(text)]
        if (self.owner_id or "").startswith(BUILT_IN):
            errors.append(FieldError("owner_id", f"Must not begin with {BUILT_IN}", self.owner_id))
        if self.expires_at is not None:
            errors += self._check_expiry(self.expires_at)
        return errors

    def _check_expiry(self, expires_at: datetime) -> list[FieldError]:
        if fault := future_fault(expires_at):
            return [FieldError("expires_at", fault, expires_at)]
        self.expires_at = expires_at.astimezone(UTC)
        return []


class RotateApiKey(Input):
    """For how long the old key stays good beside the new one; 0 revokes it at once."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=MAX_OVERLAP_SECONDS)] = 3600


def _readable(text: str | None) -> bool:
    return text is None or (0 < len(text) <= LABEL_LENGTH and text.isprintable())
