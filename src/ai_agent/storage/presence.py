"""Who is in a session: of this node, or in Redis of all nodes, where what is not said again is forgotten soon."""

import time
import uuid
from collections.abc import Collection, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from ai_agent.domain.presence import Present
from ai_agent.storage.redis_limiter import RedisAway
from ai_agent.storage.redis_pipeline import Asked, RedisPipeline

if TYPE_CHECKING:
    from redis.asyncio import Redis

LIFE_SECONDS = 45.0
"""So long the word of a node holds: with the time until another one looks, less than the minute that is promised."""
_SCRIPT = files(__package__).joinpath("presence.lua").read_text()


class Change(NamedTuple):
    """What may be different of a user: whether they are there, or whether they type."""

    user_id: str
    what: Literal["presence", "typing"]


class Said(NamedTuple):
    """Who is in a session, and what has changed since somebody asked, once for all nodes.

    Of two answers the later one has the higher `fence`; where there is one node, it is 0.
    """

    fence: int
    changed: Collection[Change]
    users: list[Present]


class NodePresence:
    """Those of this node, in its memory."""

    def __init__(self) -> None:
        self._sessions: dict[str, dict[str, Present]] = {}

    def say(self, session_id: str, own: Mapping[str, float]) -> Said:
        """These users are in the session, and each types for so many seconds more."""
        before, at = self._sessions.pop(session_id, {}), time.time_ns() // 1_000_000
        users = {
            user: Present(user, before[user].since if user in before else at, seconds > 0)
            for user, seconds in own.items()
        }
        if users:
            self._sessions[session_id] = users
        changed = {Change(user, "presence") for user in before.keys() ^ users.keys()}
        typed = {user for user, one in before.items() if one.typing}
        changed |= {Change(user, "typing") for user, one in users.items() if one.typing != (user in typed)}
        return Said(0, changed, self.users(session_id))

    def users(self, session_id: str) -> list[Present]:
        return _in_order(self._sessions.get(session_id, {}).values())


class RedisPresence:
    """Those of all nodes. Several deployments may share a Redis: each has its own `name`."""

    def __init__(self, redis: "Redis", name: str):
        self._calls = RedisPipeline(redis, _SCRIPT)
        self._prefix = f"ai-agent:presence:{name}:"
        self._node = uuid.uuid4().hex

    async def say(self, session_id: str, own: Mapping[str, float]) -> Said:
        """As that of a node, for LIFE_SECONDS. Raises RedisAway: then nobody knows whether it was heard."""
        users = [part for user, seconds in own.items() for part in (user, int(seconds * 1000))]
        asked = Asked(1, self._prefix + session_id, self._node, int(LIFE_SECONDS * 1000), *users)
        self._calls.send(asked)
        try:
            fence, changed, here = cast("tuple[bytes, list[bytes], list[bytes | int]]", await asked.reply)
        except Exception as error:
            raise RedisAway(f"{type(error).__name__}: {error}") from error
        words = [word.decode() for word in changed]
        changes = [Change(user, what) for what, user in zip(words[::2], words[1::2], strict=True)]  # type: ignore[arg-type]  # as the script names them
        users_of_all = zip(here[::3], here[1::3], here[2::3], strict=True)
        present = [
            Present(cast(bytes, user).decode(), int(since), bool(typing)) for user, since, typing in users_of_all
        ]
        return Said(int(fence), changes, _in_order(present))

    def close(self) -> None:
        self._calls.close()


def _in_order(users: Collection[Present]) -> list[Present]:
    return sorted(users, key=lambda one: (one.since, one.user_id))
