"""Open sockets, for whoever looks after the server: listed, and ended, on whichever node they are."""

from datetime import datetime
from typing import Any
from uuid import UUID

from ai_agent.domain.audit import Action, Actor, Target
from ai_agent.domain.connections import ConnectionFilter, ConnectionInfo, ConnectionPage
from ai_agent.domain.errors import NotFound
from ai_agent.domain.frames import CloseCode
from ai_agent.domain.identity import Principal
from ai_agent.domain.pages import PageRequest
from ai_agent.realtime.connection_registry import ConnectionRegistry
from ai_agent.realtime.socket_orders import SocketOrders
from ai_agent.services.paging import Pager
from ai_agent.storage import audit
from ai_agent.storage.database import Database, Reader
from ai_agent.storage.keyset import Bounds


class ConnectionService:
    def __init__(self, database: Database, pager: Pager, registry: ConnectionRegistry, orders: SocketOrders):
        self._database = database
        self._pager = pager
        self._registry = registry
        self._orders = orders

    async def list(self, principal: Principal, wanted: ConnectionFilter, request: PageRequest) -> ConnectionPage:
        listing = _Listing(await self._registry.all())
        return await self._pager.page(ConnectionPage, listing, principal.subject, wanted, request)

    async def end(self, actor: Actor, connection_id: UUID) -> None:
        """Closes a connection, whose client does not come again by itself. Raises NotFound, ServiceUnavailable."""
        info = next((one for one in await self._registry.all() if one.id == connection_id), None)
        if info is None:
            raise NotFound("Connection not found")
        details = {"user_id": info.user_id, "node": info.node, "address": info.address}
        async with self._database.unit_of_work() as rows:
            await audit.record(rows, actor, Action.CONNECTION_CLOSED, Target("connection", str(connection_id)), details)
        await self._orders.close_connection(connection_id, CloseCode.REVOKED)


class _Listing:
    """The connections of a moment, a page at a time."""

    name, identity = "connections", "id"

    def __init__(self, infos: list[ConnectionInfo]):
        self._infos = infos

    def sort_type(self, sort_by: str) -> type[Any]:
        return datetime

    async def page(
        self, reader: Reader, owner: str, wanted: ConnectionFilter, sort_by: str, *, descending: bool, bounds: Bounds
    ) -> list[ConnectionInfo]:
        rows = sorted((info for info in self._infos if wanted.matches(info)), key=_place, reverse=descending)
        if bounds.after is not None:
            last = (bounds.after.value, bounds.after.id)
            rows = [row for row in rows if (_place(row) < last if descending else _place(row) > last)]
        return rows[bounds.offset : bounds.offset + bounds.limit]

    async def total(self, reader: Reader, owner: str, wanted: ConnectionFilter) -> int:
        return sum(wanted.matches(info) for info in self._infos)


def _place(info: ConnectionInfo) -> tuple[Any, UUID]:
    return info.connected_at, info.id
