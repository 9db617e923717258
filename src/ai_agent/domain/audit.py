"""The audit log: who did what to which credential or setting, and from where."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.fields import StoredObject
from ai_agent.domain.pages import Filter, Page


class Actor(msgspec.Struct, frozen=True):
    """Who acts: a principal's subject with its key and address, or `@cli`, `@server` or `@anonymous`."""

    name: str
    key_id: UUID | None = None
    address: str | None = None
    correlation_id: str | None = None


class Action(StrEnum):
    """What is done to a credential, a setting or somebody's connection, and told in the audit log."""

    KEY_CREATED = "key.created"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    TOKEN_ISSUED = "token.issued"  # noqa: S105  # an action's name
    TOKEN_REFRESHED = "token.refreshed"  # noqa: S105
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    TOKEN_REUSED = "token.reused"  # noqa: S105
    """A refresh token came a second time, and its family was revoked."""
    CONNECTION_CLOSED = "connection.closed"
    DEAD_LETTERS_REPLAYED = "dead_letters.replayed"
    DEAD_LETTERS_PURGED = "dead_letters.purged"
    RATE_LIMITS_OVERRIDDEN = "rate_limits.overridden"
    RATE_LIMITS_RESTORED = "rate_limits.restored"


class Target(msgspec.Struct, frozen=True):
    """What was acted on: `api_key`, `token_family`, `connection`, `queue` or `principal`; `*` for all queues."""

    type: str
    id: str


Details = dict[str, Any]


class AuditEntry(msgspec.Struct):
    """One action, as it is kept: never changed, never removed."""

    id: UUID
    actor: str
    key_id: UUID | None
    action: Action
    target_type: str
    target_id: str
    details: StoredObject
    address: str | None
    correlation_id: str | None
    created_at: datetime


class AuditPage(Page):
    """Entries of the audit log."""

    items: list[AuditEntry]


class AuditFilter(Filter, frozen=True, kw_only=True):
    action: Action | None = None
    actor: str | None = None
    target_id: str | None = None
