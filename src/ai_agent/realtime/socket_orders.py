"""Orders about a connection to whichever node has it, over the event log."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.channels import CONTROL
from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.events import NewEvent
from ai_agent.domain.frames import CloseCode
from ai_agent.realtime.event_log import EventLog, Position
from ai_agent.realtime.follow import CHECK_SECONDS, Gone, following

RETRY_SECONDS = 0.5
_CLOSE = "connection.close"

log = structlog.get_logger()


class CloseOrder(msgspec.Struct, frozen=True):
    """Closes a connection with a code."""

    id: UUID
    code: int


class SocketOrders:
    """`obey` closes a connection of this node, and says whether it has it."""

    def __init__(self, events: EventLog, *, shared: bool):
        self._events = events
        self._shared = shared
        self._task: asyncio.Task[None] | None = None
        self._position: Position | None = None
        self.obey: Callable[[UUID, CloseCode], bool] = lambda _, __: False

    async def start(self) -> None:
        """Where nodes share connections, from now on orders of others are heard."""
        if self._shared:
            with suppress(AIAgentError):  # Then it is tried again.
                self._position = await self._top()
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        await cancel_and_wait(self._task)

    async def close_connection(self, connection_id: UUID, code: CloseCode) -> None:
        """Raises ServiceUnavailable when no other node can be told."""
        if not self.obey(connection_id, code) and self._shared:
            order = NewEvent.of(_CLOSE, CloseOrder(connection_id, code))
            await self._events.append(CONTROL, [order])

    async def _follow(self) -> None:
        while True:
            try:
                await self._hear()
            except Gone as gone:
                self._position = Position(gone.page.epoch, gone.page.top)
            except AIAgentError:
                log.warning("socket_orders_unheard", exc_info=True)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("socket_order_failed")

    async def _hear(self) -> None:
        since = self._position or await self._top()
        async with following(self._events, CONTROL, since) as follower:
            while True:
                batch = await follower.next(CHECK_SECONDS)
                self._position = follower.position
                for event in batch.events:
                    order = msgspec.json.decode(event.data, type=CloseOrder)
                    self.obey(order.id, CloseCode(order.code))

    async def _top(self) -> Position:
        page = await self._events.read(CONTROL, Position("", 0), 1)
        return Position(page.epoch, page.top)
