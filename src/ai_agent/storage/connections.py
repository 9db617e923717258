"""Which sockets are open: of this node, or in Redis of all nodes, where what is not said again is forgotten soon."""

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple, cast
from uuid import UUID

import msgspec

from ai_agent.domain.connections import ConnectionInfo
from ai_agent.storage.redis_limiter import RedisAway

if TYPE_CHECKING:
    from redis.asyncio import Redis

LIFE_SECONDS = 60.0
AT_ONCE = 200
_NO_LIMIT = -1
_SCRIPTS = files(__package__)


class Claim(NamedTuple):
    """Whether a connection has a place, and which earlier one of the same client instance has lost its own to it."""

    admitted: bool
    replaced: UUID | None = None


class NodeConnections:
    """Those of this node, in its memory."""

    def __init__(self) -> None:
        self._open: dict[UUID, ConnectionInfo] = {}

    def claim(self, info: ConnectionInfo, limit: int) -> Claim:
        of_user = [other for other in self._open.values() if other.user_id == info.user_id]
        same = [other.id for other in of_user if info.client.instance and other.client.instance == info.client.instance]
        if len(of_user) - len(same) >= limit:
            return Claim(False)
        for replaced in same:
            del self._open[replaced]
        self.keep([info])
        return Claim(True, same[0] if same else None)

    def keep(self, infos: Sequence[ConnectionInfo]) -> None:
        self._open |= {info.id: info for info in infos}

    def release(self, connection_id: UUID) -> None:
        self._open.pop(connection_id, None)

    def all(self) -> list[ConnectionInfo]:
        return list(self._open.values())


class RedisConnections:
    """Those of all nodes. Several deployments may share a Redis: each has its own `name`. Methods raise RedisAway."""

    def __init__(self, redis: "Redis", name: str):
        self._redis = redis
        self._prefix = f"ai-agent:{{sockets:{name}}}:"
        self._claim = redis.register_script(_SCRIPTS.joinpath("connection_claim.lua").read_text())
        self._release = redis.register_script(_SCRIPTS.joinpath("connection_release.lua").read_text())

    async def claim(self, info: ConnectionInfo, limit: int) -> Claim:
        try:
            admitted, replaced = await self._claim(self._keys(info), self._arguments(info, limit))
        except Exception as error:
            raise _away(error) from error
        return Claim(bool(admitted), UUID(replaced.decode()) if replaced else None)

    async def keep(self, infos: Sequence[ConnectionInfo]) -> None:
        """For LIFE_SECONDS from now, also those that Redis has lost."""
        for start in range(0, len(infos), AT_ONCE):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for info in infos[start : start + AT_ONCE]:
                    await self._claim(self._keys(info), self._arguments(info, _NO_LIMIT), client=pipeline)
                try:
                    await pipeline.execute()
                except Exception as error:
                    raise _away(error) from error

    async def release(self, info: ConnectionInfo) -> None:
        try:
            await self._release(self._keys(info), [str(info.id)])
        except Exception as error:
            raise _away(error) from error

    async def all(self) -> list[ConnectionInfo]:
        try:
            ids = cast("list[bytes]", await self._redis.zrange(self._prefix + "all", 0, -1))
            found = [await self._redis.mget(self._texts(ids[n : n + AT_ONCE])) for n in range(0, len(ids), AT_ONCE)]
        except Exception as error:
            raise _away(error) from error
        return [msgspec.json.decode(text, type=ConnectionInfo) for some in found for text in some if text]

    async def close(self) -> None:
        await self._redis.aclose()

    def _texts(self, ids: Sequence[bytes]) -> list[str]:
        return [f"{self._prefix}id:{one.decode()}" for one in ids]

    def _keys(self, info: ConnectionInfo) -> list[str]:
        # The length keeps apart what two users could else spell alike.
        instance = f"instance:{len(info.user_id)}:{info.user_id}:{info.client.instance}"
        names = ["all", f"user:{info.user_id}", instance, f"id:{info.id}"]
        return [self._prefix + name for name in names]

    def _arguments(self, info: ConnectionInfo, limit: int) -> list[str | bytes | int]:
        life = int(LIFE_SECONDS * 1000)
        return [str(info.id), info.client.instance, life, limit, f"{self._prefix}id:", msgspec.json.encode(info)]


def _away(error: Exception) -> RedisAway:
    return RedisAway(f"{type(error).__name__}: {error}")
