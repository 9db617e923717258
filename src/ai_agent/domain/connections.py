"""Sockets that are open, on whichever node."""

from datetime import datetime
from uuid import UUID

import msgspec

from ai_agent.domain.frames import ClientInfo
from ai_agent.domain.pages import Filter, Page


class ConnectionInfo(msgspec.Struct, frozen=True):
    """An open socket: whose it is, on which node, from where, and what it is subscribed to."""

    id: UUID
    user_id: str
    node: str
    address: str
    client: ClientInfo
    subscriptions: list[str]
    connected_at: datetime


class ConnectionPage(Page):
    """Open sockets of a list."""

    items: list[ConnectionInfo]


class ConnectionFilter(Filter, frozen=True, kw_only=True):
    user_id: str | None = None
    node: str | None = None

    def matches(self, info: ConnectionInfo) -> bool:
        return (
            self.user_id in {None, info.user_id}
            and self.node in {None, info.node}
            and (self.created_after is None or info.connected_at > self.created_after)
            and (self.created_before is None or info.connected_at < self.created_before)
        )
