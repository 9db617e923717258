"""Who calls, and what they may do."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec


class Scope(StrEnum):
    """What a key may be used for. `admin` includes all the others."""

    SESSIONS_READ = "sessions:read"
    SESSIONS_WRITE = "sessions:write"
    AGENTS_READ = "agents:read"
    AGENTS_WRITE = "agents:write"
    AGENTS_EXECUTE = "agents:execute"
    TOPICS_READ = "topics:read"
    TOOLS_READ = "tools:read"
    TOOLS_WRITE = "tools:write"
    TOOLS_INVOKE = "tools:invoke"
    MCP_READ = "mcp:read"
    MCP_WRITE = "mcp:write"
    NOTIFICATIONS_WRITE = "notifications:write"
    TOPICS_PUBLISH = "topics:publish"
    ADMIN = "admin"


class Tier(StrEnum):
    """How much a caller is allowed: what the operator grants each tier."""

    DEFAULT = "default"
    AUTHENTICATED = "authenticated"
    PREMIUM = "premium"


class Principal(msgspec.Struct, frozen=True):
    """The authenticated caller. `subject` owns every row the caller makes.

    `key_id` is the API key that was given, or that a token was made from; `family_id` that of a token's family.
    `expires_at` is when the credentials end by themselves.
    """

    subject: str
    scopes: frozenset[str]
    tier: Tier = Tier.AUTHENTICATED
    key_id: UUID | None = None
    family_id: UUID | None = None
    expires_at: datetime | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


ADMIN_SUBJECT = "admin"
"""The owner of the key made at the first start, of the agent `assistant`, and of everything with authentication off."""

BUILT_IN = "@"
"""What the names of the audit log's own actors begin with: no owner, and no subject of a token, begins with it."""

OPERATOR = Principal(ADMIN_SUBJECT, frozenset({Scope.ADMIN}))
"""Who has the machine: its commands, and its first start."""
