"""An API key as it is shown: never the key itself, which is told once when it is made."""

from datetime import datetime
from uuid import UUID

import msgspec

from ai_agent.domain.fields import StoredJson
from ai_agent.domain.identity import Tier


class ApiKey(msgspec.Struct):
    id: UUID
    name: str
    owner_id: str
    scopes: StoredJson
    tier: Tier
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
