"""Which sockets are open, on all nodes. While Redis is away a node counts its own."""

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from ai_agent.domain.connections import ConnectionInfo
from ai_agent.storage.connections import Claim, NodeConnections, RedisConnections
from ai_agent.storage.redis_limiter import RedisAway

AT_THE_SAME_TIME = 4
"""Connections that ask for a place; the others wait, so that a rush is not taken for a Redis that is away."""

log = structlog.get_logger()


class ConnectionRegistry:
    """`shared` is None where there is one node."""

    def __init__(self, shared: RedisConnections | None):
        self.shared = shared
        self._own = NodeConnections()
        self.alone = shared is None
        """Whether this node knows of no other."""
        self._left: deque[ConnectionInfo] = deque(maxlen=10_000)
        """Those that ended while Redis could not be told."""
        self._turns = asyncio.Semaphore(AT_THE_SAME_TIME)

    async def claim(self, info: ConnectionInfo, limit: int) -> Claim:
        """A place for a connection, at most so many for a user: also that of an earlier one of the same client."""
        claim = None if self.shared is None else await self._claim_of_all(self.shared, info, limit)
        if claim is None:
            return self._own.claim(info, limit)
        if claim.admitted:
            self._own.keep([info])
        return claim

    async def _claim_of_all(self, shared: RedisConnections, info: ConnectionInfo, limit: int) -> Claim | None:
        async with self._turns:
            if self.alone:
                return None
            try:
                return await shared.claim(info, limit)
            except RedisAway as error:
                self._fall_back(error)
                return None

    async def keep(self, infos: Sequence[ConnectionInfo]) -> None:
        """Says again that these are open, as they are now; that has to be said of all every few seconds."""
        self._own.keep(infos)
        if self.shared is None:
            return
        try:
            await self.shared.keep(self._own.all() if self.alone else infos)
            while self._left:
                await self.shared.release(self._left[-1])
                self._left.pop()
        except RedisAway as error:
            self._fall_back(error)
        else:
            self._go_on()

    async def release(self, info: ConnectionInfo) -> None:
        self._own.release(info.id)
        if self.shared is None:
            return
        if self.alone:
            self._left.append(info)
            return
        try:
            await self.shared.release(info)
        except RedisAway as error:
            self._left.append(info)
            self._fall_back(error)

    async def all(self) -> list[ConnectionInfo]:
        if self.shared is not None and not self.alone:
            try:
                return await self.shared.all()
            except RedisAway as error:
                self._fall_back(error)
        return self._own.all()

    async def close(self) -> None:
        if self.shared is not None:
            await self.shared.close()

    def _fall_back(self, error: RedisAway) -> None:
        if not self.alone:
            log.warning("connections_counted_alone", reason=str(error), hint="Each node counts its own until then")
        self.alone = True

    def _go_on(self) -> None:
        if self.alone:
            log.warning("connections_counted_together", hint="All nodes count together again")
        self.alone = False
