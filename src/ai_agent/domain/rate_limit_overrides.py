"""Limits that the operator gives one principal, in place of those of its tier."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import Holds, Input, StoredJson, future_fault
from ai_agent.domain.identity import Tier
from ai_agent.domain.pages import Filter, Page
from ai_agent.domain.rate_limits import RateLimitState, Windows, parse_limit

Limit = Annotated[str, Meta(min_length=1, max_length=255)]


class LimitTexts(Input, omit_defaults=True):
    """Limits by their scope, such as `200/minute`; a scope that is not named has that of the tier."""

    total: Limit | None = None
    session_create: Limit | None = None
    message_create: Limit | None = None
    read: Limit | None = None
    execute: Limit | None = None
    bulk: Limit | None = None
    tool_invoke: Limit | None = None
    write: Limit | None = None

    def check(self) -> list[FieldError]:
        return [FieldError(name, fault, text) for name, text in self._given() if (fault := _fault(text))]

    def windows(self) -> tuple[tuple[str, Windows], ...]:
        return tuple((name, parse_limit(text)) for name, text in self._given())

    def _given(self) -> list[tuple[str, str]]:
        return [(name, text) for name in self.__struct_fields__ if (text := getattr(self, name)) is not None]


def _fault(text: str) -> str | None:
    try:
        parse_limit(text)
    except ValueError:
        return "Is not a rate limit; write it as 100/minute, or with several windows as 10/minute;200/hour"
    return None


class OverrideRateLimits(Input):
    """What a principal is allowed from now on: another tier, limits of its own, or both."""

    tier: Tier | None = None
    limits: LimitTexts | None = None
    reason: Annotated[str, Meta(max_length=1024)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None

    def check(self) -> list[FieldError]:
        if self.tier is None and (self.limits is None or not self.limits.windows()):
            return [FieldError("limits", "Is required, with a limit at least, or a tier")]
        if self.expires_at is not None:
            if fault := future_fault(self.expires_at):
                return [FieldError("expires_at", fault, self.expires_at)]
            self.expires_at = self.expires_at.astimezone(UTC)
        return []


class RateLimitOverride(msgspec.Struct):
    """What a principal is allowed in place of its tier, until it expires."""

    id: UUID
    user_id: str
    tier: Tier | None
    limits: Annotated[StoredJson, Holds(LimitTexts)]
    reason: str | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime


class RateLimitOverridePage(Page):
    """Overrides of a list."""

    items: list[RateLimitOverride]


class RateLimitOverrideFilter(Filter, frozen=True, kw_only=True):
    user_id: str | None = None


class PrincipalRateLimits(msgspec.Struct):
    """Every limit of a principal, what is left of it, and what the operator has changed."""

    user_id: str
    tier: Tier
    limits: list[RateLimitState]
    override: RateLimitOverride | None
