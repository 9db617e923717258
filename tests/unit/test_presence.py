"""Who is in a session, as one node knows and tells it: also while it cannot ask, or not tell."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest

from ai_agent.domain.channels import presence_channel
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import NewEvent
from ai_agent.realtime import presence as module
from ai_agent.realtime.event_log import Position
from ai_agent.realtime.memory_log import MemoryLog
from ai_agent.realtime.presence import Presence
from ai_agent.storage.presence import Change, NodePresence, Said
from ai_agent.storage.redis_limiter import RedisAway

S, T = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"


class Log(MemoryLog):
    """One that may be away."""

    away = False

    async def append(self, channel: str, events: Any, *, fence: int = 0) -> Position:
        if self.away:
            raise ServiceUnavailable("away")
        return await super().append(channel, events, fence=fence)

    def told(self, session_id: str = S) -> list[str]:
        events = self._known(presence_channel(session_id)).events
        data = [msgspec.json.decode(event.data) for event in events]
        return [
            f"{event.type.partition('.')[2]} {of['user_id']} {of.get('typing', '')}".strip()
            for event, of in zip(events, data, strict=True)
        ]


class Shared(NodePresence):
    """What all nodes say, in one memory that may be away. `unheard`: it has heard, and its answer is lost."""

    away = unheard = False
    fence = 0

    async def say(self, session_id: str, own: Mapping[str, float]) -> Said:  # type: ignore[override]  # as Redis does
        if self.away:
            raise RedisAway("away")
        self.fence += 1
        said = super().say(session_id, own)._replace(fence=self.fence)
        if self.unheard:
            raise RedisAway("no answer")
        return said

    def close(self) -> None: ...


Scenario = Callable[[Presence, Log], Awaitable[None]]


def play(scenario: Scenario, shared: Shared | None = None) -> None:
    async def run() -> None:
        log = Log()
        presence = Presence(shared, log)  # type: ignore[arg-type]  # see Shared
        presence.start()
        try:
            async with asyncio.timeout(10):
                await scenario(presence, log)
        finally:
            await presence.close()

    asyncio.run(run())


async def users(presence: Presence, session_id: str = S) -> dict[str, bool]:
    return {one.user_id: one.typing for one in await presence.users(session_id)}


async def until_told(log: Log, *wanted: str) -> None:
    while log.told() != list(wanted):
        await asyncio.sleep(0.01)


def test_only_what_is_different_has_changed() -> None:
    node = NodePresence()
    assert set(node.say(S, {"ada": 0, "bob": 0}).changed) == {Change("ada", "presence"), Change("bob", "presence")}
    assert node.say(S, {"ada": 0, "bob": 0}).changed == set()
    said = node.say(S, {"ada": 5})
    assert set(said.changed) == {Change("ada", "typing"), Change("bob", "presence")}
    assert [(one.user_id, one.typing) for one in said.users] == [("ada", True)]
    assert node.say(S, {"ada": 4}).changed == set(), "Said again it is no news"
    assert node.say(T, {}).users == []
    assert node.say(S, {}).users == []
    assert node._sessions == {}


def test_a_user_comes_with_the_first_socket_and_goes_with_the_last() -> None:
    async def scenario(presence: Presence, log: Log) -> None:
        for number in range(3):
            presence.enter(S, number, "ada", "web")
            assert await users(presence) == {"ada": False}
        for number in (1, 0):
            presence.leave(S, number)
            assert await users(presence) == {"ada": False}
        assert log.told() == ["joined ada"]
        presence.leave(S, 2)
        presence.leave(S, 2)  # As whoever is closed while the node stops.
        assert await users(presence) == {}
        await until_told(log, "joined ada", "left ada")
        assert presence._here == {}

    play(scenario)


def test_who_types_on_one_socket_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TYPING_SECONDS", 0.2)

    async def scenario(presence: Presence, log: Log) -> None:
        for number in range(2):
            presence.enter(S, number, "ada", "web")
        presence.types(S, 0, typing=True)
        presence.types(S, 1, typing=False)
        assert await users(presence) == {"ada": True}
        await until_told(log, "joined ada", "typing ada True", "typing ada False")
        presence.types(S, 0, typing=True)
        assert await users(presence) == {"ada": True}
        presence.leave(S, 0)
        assert await users(presence) == {"ada": False}, "The other socket does not type"

    play(scenario)


def test_what_the_log_cannot_take_is_told_later_as_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.05)

    async def scenario(presence: Presence, log: Log) -> None:
        presence.enter(S, 1, "ada", "web")
        await until_told(log, "joined ada")
        log.away = True
        presence.enter(S, 2, "bob", "web")
        presence.leave(S, 1)
        assert await users(presence) == {"bob": False}
        presence.enter(S, 1, "ada", "web")
        presence.enter(S, 3, "cy", "web")
        presence.types(S, 3, typing=True)
        assert await users(presence) == {"bob": False, "ada": False, "cy": True}
        presence.leave(S, 3)
        await asyncio.sleep(0.1)
        log.away = False
        await until_told(log, "joined ada", "joined ada", "joined bob", "left cy")
        await asyncio.sleep(0.2)
        assert len(log.told()) == 4

    play(scenario)


@pytest.mark.parametrize("unheard", [False, True])
def test_while_redis_is_away_a_node_knows_its_own_and_tells_of_it_later(
    monkeypatch: pytest.MonkeyPatch, unheard: bool
) -> None:
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.05)
    shared = Shared()

    async def scenario(presence: Presence, log: Log) -> None:
        presence.enter(S, 1, "ada", "web")
        await until_told(log, "joined ada")
        shared.away, shared.unheard = not unheard, unheard
        presence.enter(S, 2, "bob", "web")
        presence.leave(S, 1)
        assert await users(presence) == {"bob": False}
        await asyncio.sleep(0.1)
        assert log.told() == ["joined ada"]
        shared.away = shared.unheard = False
        await until_told(log, "joined ada", "left ada", "joined bob")
        await asyncio.sleep(0.2)
        assert len(log.told()) == 3

    play(scenario, shared)


def test_what_redis_has_lost_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.02)
    shared = Shared()

    async def scenario(presence: Presence, log: Log) -> None:
        presence.enter(S, 1, "ada", "web")
        await until_told(log, "joined ada")
        shared._sessions.clear()
        await until_told(log, "joined ada", "joined ada")
        presence.leave(S, 1)
        await until_told(log, "joined ada", "joined ada", "left ada")
        assert (presence._said, presence._untold) == ({}, {})

    play(scenario, shared)


def test_what_another_node_has_overtaken_is_told_as_it_is_now() -> None:
    shared = Shared()

    async def scenario(presence: Presence, log: Log) -> None:
        presence.enter(S, 1, "ada", "web")
        await until_told(log, "joined ada")
        # Another node has learned later that ada is there, and told of it before.
        shared.fence = 5
        await log.append(presence_channel(S), [NewEvent.of("presence.joined", {"user_id": "ada"})], fence=7)
        presence.leave(S, 1)
        await until_told(log, "joined ada", "joined ada", "left ada")
        assert shared.fence == 7, "It was asked again what is true"

    play(scenario, shared)


def test_a_forgotten_channel_is_told_nothing_and_nothing_is_left_of_it() -> None:
    async def scenario(presence: Presence, log: Log) -> None:
        presence.enter(S, 1, "ada", "web")
        await until_told(log, "joined ada")
        await log.forget(presence_channel(S), NewEvent.of("session.deleted", {"user_id": S}))
        presence.leave(S, 1)
        assert await users(presence) == {}
        while presence._untold:
            await asyncio.sleep(0.01)
        assert log.told() == [f"deleted {S}"]

    play(scenario)


def test_a_node_that_stops_says_that_nobody_is_there() -> None:
    shared, log = Shared(), Log()

    async def run() -> None:
        presence = Presence(shared, log)  # type: ignore[arg-type]  # see Shared
        await presence.close()  # Before it was started, when the start of another room has failed.
        presence.start()
        presence.enter(S, 1, "ada", "web")
        assert await users(presence) == {"ada": False}
        await presence.close()
        assert log.told() == ["joined ada", "left ada"]

    asyncio.run(run())
