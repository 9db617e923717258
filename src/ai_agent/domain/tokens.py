"""Tokens: a short-lived one that requests carry, one that gets the next, and tickets that open a socket."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from ai_agent.domain.fields import Input
from ai_agent.domain.identity import Tier
from ai_agent.domain.rate_limits import RateLimitState


class Tokens(msgspec.Struct):
    """An access token, which requests carry, and the refresh token that gets the next one."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str


class RefreshToken(Input):
    """A refresh token, as `POST /auth/token` or `POST /auth/refresh` answered it."""

    refresh_token: Annotated[str, Meta(min_length=1, max_length=512)]


class WebSocketTicket(msgspec.Struct):
    """Opens one WebSocket, once."""

    ticket: str
    expires_in: int


class CallerRole(StrEnum):
    """`admin` has every scope."""

    ADMIN = "admin"
    USER = "user"


class Me(msgspec.Struct):
    """Who the caller is, and what the credentials allow."""

    user: str
    role: CallerRole
    tier: Tier
    scopes: list[str]
    limits: list[RateLimitState]
    key_id: UUID | None
    expires_at: datetime | None
