"""Webhooks: what is sent to an execution's `callback_url` when it has ended, and what came of it."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from ai_agent.domain.pages import Filter, Page


class DeliveryStatus(StrEnum):
    """The last two are final, until it is sent again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Delivery(msgspec.Struct):
    """One message to a `callback_url`. Its id is the `webhook-id` of every attempt."""

    id: UUID
    execution_id: UUID
    url: str
    event: str
    status: DeliveryStatus
    attempts: int
    response_status: int | None
    error: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


class DeliveryPage(Page):
    """A page of deliveries."""

    items: list[Delivery]


class DeliveryFilter(Filter, frozen=True, kw_only=True):
    execution_id: UUID


class WebhookSecret(msgspec.Struct):
    """What the caller's deliveries are signed with."""

    secret: str
