"""Who is in a session, and who is typing: kept true on all nodes, and told as it changes.

A node says of a session which users it has there, whenever that changes and now and then; what is different since
anybody said something is told by the one who learns it. So a user with several sockets comes and goes once, whichever
nodes these are on, and those of a node that has died are missed by the next one that looks.
"""

import asyncio
from collections.abc import Collection, Iterator
from zlib import crc32

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.channels import presence_channel
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.event_data import PresenceJoinedData, PresenceLeftData, PresenceTypingData
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.domain.presence import Present
from ai_agent.realtime.event_log import EventLog, Fenced
from ai_agent.storage.presence import Change, NodePresence, RedisPresence, Said
from ai_agent.storage.redis_limiter import RedisAway

TYPING_SECONDS = 10.0
"""So long somebody types who does not say it again."""
KEEP_SECONDS = 2.0
SLICES = 5
"""Each time another fifth of the sessions is said again."""
TRIES = 10
"""So often others may overtake a node with news of the same session. A channel that was forgotten refuses each time."""
CLOSING_SECONDS = 2.0

log = structlog.get_logger()


class _Socket(msgspec.Struct):
    """One of a user that is in a session. It types while `typing` runs."""

    user_id: str
    client: str
    typing: asyncio.TimerHandle | None = None

    def stop_typing(self) -> None:
        if self.typing is not None:
            self.typing.cancel()
            self.typing = None


class Presence:
    """`shared` is None where there is one node. While Redis is away a node knows its own, and tells of it later.

    A socket is named by whatever the caller knows it by.
    """

    def __init__(self, shared: RedisPresence | None, events: EventLog):
        self._shared = shared
        self._node = NodePresence()
        self._events = events
        self._here: dict[str, dict[object, _Socket]] = {}
        self._said: dict[str, Collection[str]] = {}
        """What the other nodes have heard last, by session."""
        self._untold: dict[str, set[Change]] = {}
        """What has changed, or may have, and could not be told."""
        self._due: dict[str, list[asyncio.Future[list[Present]]]] = {}
        """Sessions that something is to be said of, and who waits to hear who is there."""
        self._news = asyncio.Event()
        self._alone = False
        self._closing = False
        self._turn = 0
        self._saying: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._saying = asyncio.create_task(self._say_for_ever())
        self._keep()

    async def close(self) -> None:
        """Nobody is here any more, and the others hear of it."""
        if self._saying is None:
            return
        self._timer.cancel()
        for session_id, sockets in list(self._here.items()):
            for socket in list(sockets):
                self.leave(session_id, socket)
        self._closing = True
        self._news.set()
        await asyncio.wait([self._saying], timeout=CLOSING_SECONDS)
        await cancel_and_wait(self._saying)
        if self._shared is not None:
            self._shared.close()

    def enter(self, session_id: str, socket: object, user_id: str, client: str) -> None:
        """`client` is by which the user knows their client."""
        self._here.setdefault(session_id, {})[socket] = _Socket(user_id, client)
        self._is_due(session_id)

    def leave(self, session_id: str, socket: object) -> None:
        sockets = self._here.get(session_id, {})
        if (one := sockets.pop(socket, None)) is None:
            return
        one.stop_typing()
        if not sockets:
            del self._here[session_id]
        self._is_due(session_id)

    def types(self, session_id: str, socket: object, *, typing: bool) -> None:
        """Whether the user types there; for TYPING_SECONDS."""
        one = self._here[session_id][socket]
        one.stop_typing()
        if typing:
            one.typing = asyncio.get_running_loop().call_later(TYPING_SECONDS, self._has_typed, session_id, one)
        self._is_due(session_id)

    def _has_typed(self, session_id: str, one: _Socket) -> None:
        one.typing = None
        self._is_due(session_id)

    async def users(self, session_id: str) -> list[Present]:
        """Who is there, in the order in which they came; while Redis is away those of this node."""
        answer: asyncio.Future[list[Present]] = asyncio.get_running_loop().create_future()
        self._is_due(session_id).append(answer)
        return await answer

    def _is_due(self, session_id: str) -> "list[asyncio.Future[list[Present]]]":
        self._news.set()
        return self._due.setdefault(session_id, [])

    def _keep(self) -> None:
        """Says again what others would forget else, and what could not be told."""
        self._turn = (self._turn + 1) % SLICES
        for session_id in self._said:
            if crc32(session_id.encode()) % SLICES == self._turn:
                self._is_due(session_id)
        for session_id in self._untold:
            self._is_due(session_id)
        self._timer = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._keep)

    async def _say_for_ever(self) -> None:
        while not (self._closing and not self._due):
            await self._news.wait()
            self._news.clear()
            due, self._due = self._due, {}
            await asyncio.gather(*(self._settle(session_id, answers) for session_id, answers in due.items()))

    async def _settle(self, session_id: str, answers: "list[asyncio.Future[list[Present]]]") -> None:
        try:
            said = await self._say(session_id)
            _answer(answers, said.users)
            await self._tell(session_id, said)
        except RedisAway as error:
            self._fall_back(error)
            _answer(answers, self._node.users(session_id))
        except Exception:
            log.exception("presence_failed", session=session_id)
            _answer(answers, self._node.users(session_id))

    async def _say(self, session_id: str) -> Said:
        """Notes as untold what has changed. Raises RedisAway."""
        own = self._own(session_id)
        said = self._node.say(session_id, own)
        if self._shared is not None:
            said = await self._say_to_all(self._shared, session_id, own)
        if said.changed:
            self._untold.setdefault(session_id, set()).update(said.changed)
        return said

    async def _say_to_all(self, shared: RedisPresence, session_id: str, own: dict[str, float]) -> Said:
        before = self._said.pop(session_id, ())
        try:
            said = await shared.say(session_id, own)
        except RedisAway:
            # Whether it was heard nobody knows: what is true of these is told when it is known.
            concerned = {Change(user, "presence") for user in {*own, *before}}
            self._untold.setdefault(session_id, set()).update(concerned)
            raise
        finally:
            if own:
                self._said[session_id] = list(own)
        self._go_on()
        return said

    def _own(self, session_id: str) -> dict[str, float]:
        """This node's users of a session, and for how many seconds more each of them types."""
        own: dict[str, float] = {}
        for one in self._here.get(session_id, {}).values():
            left = 0.0 if one.typing is None else one.typing.when() - asyncio.get_running_loop().time()
            own[one.user_id] = max(own.get(one.user_id, 0.0), left)
        return own

    async def _tell(self, session_id: str, said: Said) -> None:
        """What is untold, as it is now. What another node has learned later and told before is looked at again."""
        channel = presence_channel(session_id)
        for _ in range(TRIES):
            events = list(self._told(session_id, self._untold.get(session_id, ()), said.users))
            try:
                if events:
                    await self._events.append(channel, events, fence=said.fence)
                break
            except Fenced:
                said = await self._say(session_id)
            except ServiceUnavailable as error:
                log.warning("presence_not_told", session=session_id, reason=error.message)
                return
        self._untold.pop(session_id, None)

    def _told(self, session_id: str, changes: Collection[Change], users: Collection[Present]) -> Iterator[NewEvent]:
        here = {one.user_id: one for one in users}
        for user_id, what in sorted(changes):
            one = here.get(user_id)
            if what == "presence" and one is None:
                yield NewEvent.of(EventType.PRESENCE_LEFT, PresenceLeftData(user_id))
            elif what == "presence":
                joined = PresenceJoinedData(user_id, self._client(session_id, user_id))
                yield NewEvent.of(EventType.PRESENCE_JOINED, joined)
            elif one is not None:
                yield NewEvent.of(EventType.PRESENCE_TYPING, PresenceTypingData(user_id, one.typing))

    def _client(self, session_id: str, user_id: str) -> str | None:
        sockets = self._here.get(session_id, {}).values()
        return next((one.client for one in sockets if one.user_id == user_id), None)

    def _fall_back(self, error: RedisAway) -> None:
        if not self._alone:
            log.warning("presence_known_alone", reason=str(error), hint="Each node knows its own until then")
        self._alone = True

    def _go_on(self) -> None:
        if self._alone:
            log.warning("presence_known_together", hint="All nodes know of each other again")
        self._alone = False


def _answer(answers: "list[asyncio.Future[list[Present]]]", users: list[Present]) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_result(users)
