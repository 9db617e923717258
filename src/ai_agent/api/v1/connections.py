"""`/admin/connections`: open sockets of all owners, on all nodes."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from litestar import Controller, Response, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from ai_agent.api.dependencies import Caller, actor
from ai_agent.api.guards import needs
from ai_agent.api.openapi import UNCONDITIONAL
from ai_agent.api.pages import linked
from ai_agent.api.parameters import Cursor, Limit, Offset, SortOrder
from ai_agent.domain.connections import ConnectionFilter, ConnectionPage
from ai_agent.domain.identity import Scope
from ai_agent.domain.pages import PageRequest
from ai_agent.services.connections import ConnectionService


class ConnectionController(Controller):
    path = "/admin/connections"
    tags = ["Administration"]

    @get(opt=needs(Scope.ADMIN))
    async def list_connections(
        self,
        request: Caller,
        connections: NamedDependency[ConnectionService],
        limit: Limit = 20,
        cursor: Cursor = None,
        offset: Offset = 0,
        include_total: FromQuery[bool] = False,
        sort_by: FromQuery[Literal["connected_at"]] = "connected_at",
        sort_order: SortOrder = "desc",
        user_id: FromQuery[str | None] = None,
        node: FromQuery[str | None] = None,
        created_after: FromQuery[datetime | None] = None,
        created_before: FromQuery[datetime | None] = None,
    ) -> Response[ConnectionPage]:
        """List connections

        Open WebSockets of all owners, the newest first unless sorted otherwise: those of all nodes that share a Redis,
        of this node while that is away. Subscriptions may be some seconds old; those of a node that died are listed for
        a minute.
        """
        wanted = ConnectionFilter(
            user_id=user_id, node=node, created_after=created_after, created_before=created_before
        )
        page = PageRequest(limit, cursor, offset, include_total, sort_by, sort_order == "desc")
        return linked(request, await connections.list(request.user, wanted, page))

    @delete("/{connection_id:uuid}", opt=needs(Scope.ADMIN) | UNCONDITIONAL)
    async def close_connection(
        self, request: Caller, connection_id: FromPath[UUID], connections: NamedDependency[ConnectionService]
    ) -> None:
        """Close a connection

        On whichever node it is, with 4451 `revoked`, after which a client does not connect again by itself. Its
        credentials stay good.
        """
        await connections.end(actor(request), connection_id)
