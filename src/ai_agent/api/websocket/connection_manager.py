"""The open sockets of this node: how many there may be, that all nodes know of them, and what other nodes order."""

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from ai_agent.api.websocket.auth import Authenticator
from ai_agent.api.websocket.credential_review import CredentialReview
from ai_agent.api.websocket.errors import LimitReached
from ai_agent.background import cancel_and_wait
from ai_agent.domain.connections import ConnectionInfo
from ai_agent.domain.errors import AIAgentError, ServiceUnavailable
from ai_agent.domain.frames import CloseCode
from ai_agent.observability import realtime_metrics
from ai_agent.observability.metrics import sampled
from ai_agent.observability.realtime_metrics import CONNECTIONS, CONNECTS, DRAIN_SECONDS, QUEUE_BYTES, SUBSCRIPTIONS
from ai_agent.realtime.connection_registry import ConnectionRegistry
from ai_agent.realtime.socket_orders import SocketOrders
from ai_agent.services.identity import IdentityService
from ai_agent.settings import Settings

if TYPE_CHECKING:
    from ai_agent.api.websocket.connection import Connection

KEEP_SECONDS = 2.0
SLICES = 10
"""Each time another tenth of the connections is said again, and what has changed."""

LEAVING_PER_SECOND = 25.0
"""So fast sockets go when the server drains, unless the window is too short for that."""
LAST_SECONDS = 10.0
"""What the last of them may need behind its slot: answers to what was asked, and what is queued."""

_CUT = 1006
"""Of a socket that was not closed, but cut."""

log = structlog.get_logger()


class ConnectionManager:
    """`connections` are those that were let in, by id."""

    def __init__(
        self,
        settings: Settings,
        identity: IdentityService,
        authenticator: Authenticator,
        registry: ConnectionRegistry,
        orders: SocketOrders,
    ):
        # A pid alone is 1 in every container.
        self.node = f"{socket.gethostname()[:40]}-{os.getpid()}"
        self.connections: dict[str, Connection] = {}
        self._settings = settings
        self._authenticator = authenticator
        self._registry = registry
        self._orders = orders
        self._opened: set[Connection] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._drain_began: float | None = None
        self._changed: set[Connection] = set()
        self.review = CredentialReview(authenticator, self.connections)
        self._keeping: asyncio.Task[None] | None = None
        orders.obey = self._obey
        identity.listeners.append(self.review.changed)
        sampled("sockets", self._sample)

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep())

    async def drain(self) -> None:
        """Lets no more sockets in, and those that are here go one after the other; until the last one has gone."""
        self._drain_began, leaving = time.monotonic(), list(self._opened)
        spread = min(self._settings.drain_window_seconds, len(leaving) / LEAVING_PER_SECOND)
        for place, connection in enumerate(leaving):
            connection.drain(spread * place / len(leaving))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(spread + LAST_SECONDS):
                await self._nobody.wait()
        seconds = round(time.monotonic() - self._drain_began, 3)
        log.info("sockets_drained", sockets=len(leaving), left=len(self._opened), seconds=seconds)

    def _sample(self) -> None:
        SUBSCRIPTIONS.set(sum(len(each.subscriptions) for each in self._opened))
        DRAIN_SECONDS.set(0 if (began := self._drain_began) is None else time.monotonic() - began)
        QUEUE_BYTES.set(sum(each.queued_bytes for each in self._opened))

    async def close(self) -> None:
        await cancel_and_wait(self._keeping)
        await self.review.close()

    def enter(self, connection: "Connection") -> None:
        """Called when a socket is open, whoever it is. Raises LimitReached, ServiceUnavailable."""
        if self._drain_began is not None:
            raise ServiceUnavailable("This server is being stopped")
        if len(self._opened) >= self._settings.ws_max_connections:
            raise LimitReached(f"This server has up to {self._settings.ws_max_connections} connections")
        self._opened.add(connection)
        self._nobody.clear()
        CONNECTIONS.set(len(self._opened))

    async def add(self, connection: "Connection") -> None:
        """Called when it is known who it is, before `welcome`. Raises LimitReached, AuthenticationError."""
        self.connections[connection.conn_id] = connection
        try:
            # What was revoked since the credentials were looked at was told to those that were here by then.
            connection.authenticated(await self._authenticator.confirm(connection.login))
            await self._claim(connection)
        except BaseException:
            del self.connections[connection.conn_id]
            raise
        CONNECTS.inc()

    async def _claim(self, connection: "Connection") -> None:
        limit = self._settings.ws_max_connections_per_user
        claim = await self._registry.claim(self._info(connection), limit)
        if not claim.admitted:
            raise LimitReached(f"You have up to {limit} connections")
        if claim.replaced is not None:
            try:
                await self._orders.close_connection(claim.replaced, CloseCode.REPLACED)
            except AIAgentError:
                # It has lost its place; where it is it goes on until its node hears of it, or its client leaves.
                log.warning("replaced_connection_not_closed", connection=claim.replaced, exc_info=True)

    def changed(self, connection: "Connection") -> None:
        """Its subscriptions have changed."""
        self._changed.add(connection)

    async def remove(self, connection: "Connection") -> None:
        """Called when the socket is closed, also for one that was never added."""
        self._opened.discard(connection)
        if not self._opened:
            self._nobody.set()
        CONNECTIONS.set(len(self._opened))
        realtime_metrics.closed(connection.scope.get("close_code", _CUT))  # type: ignore[arg-type]  # ours
        self._changed.discard(connection)
        if self.connections.pop(connection.conn_id, None) is not None:
            await self._registry.release(self._info(connection))

    def _obey(self, connection_id: UUID, code: CloseCode) -> bool:
        connection = self.connections.get(str(connection_id))
        if connection is not None:
            connection.end(code)
        return connection is not None

    async def _keep(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            turn = (turn + 1) % SLICES
            due, self._changed = self._changed, set()
            due |= {each for each in self.connections.values() if int(each.conn_id[-4:], 16) % SLICES == turn}
            await self._registry.keep([self._info(each) for each in due if each.conn_id in self.connections])

    def _info(self, connection: "Connection") -> ConnectionInfo:
        return ConnectionInfo(
            id=UUID(connection.conn_id),
            user_id=connection.principal.subject,
            node=self.node,
            address=connection.address,
            client=connection.client,
            subscriptions=sorted(connection.subscriptions),
            connected_at=connection.opened_at,
        )
