"""Who is in a session, by the words of two nodes to one Redis."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ai_agent.storage import presence as module
from ai_agent.storage.presence import Change, RedisPresence, Said
from ai_agent.storage.redis import connect
from ai_agent.storage.redis_limiter import RedisAway
from tests.servers import ValkeyServer

S, T = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"
Scenario = Callable[[RedisPresence, RedisPresence], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture
def run(valkey: ValkeyServer) -> Run:
    """Runs a scenario on two nodes of an empty Redis."""

    def runs(scenario: Scenario) -> None:
        valkey.ask("FLUSHALL")

        async def on_two_nodes() -> None:
            here, there = (RedisPresence(connect(valkey.url), "test") for _ in range(2))
            try:
                await scenario(here, there)
            finally:
                here.close()
                there.close()

        asyncio.run(on_two_nodes())

    return runs


def came_or_went(said: Said) -> set[str]:
    return {user for user, what in said.changed if what == "presence"}


def users(said: Said) -> dict[str, bool]:
    return {one.user_id: one.typing for one in said.users}


def test_a_user_of_two_nodes_comes_and_goes_once(run: Run) -> None:
    async def scenario(here: RedisPresence, there: RedisPresence) -> None:
        assert came_or_went(await here.say(S, {"ada": 0})) == {"ada"}
        both = await there.say(S, {"ada": 0, "bob": 0})
        assert (came_or_went(both), list(users(both))) == ({"bob"}, ["ada", "bob"])
        assert came_or_went(await here.say(S, {})) == set()
        assert users(await here.say(T, {})) == {}, "That is another session"
        assert came_or_went(await there.say(S, {"bob": 0})) == {"ada"}
        assert came_or_went(await there.say(S, {})) == {"bob"}
        assert users(await there.say(S, {})) == {}

    run(scenario)


def test_of_many_who_say_it_at_once_one_learns_it(run: Run) -> None:
    async def scenario(here: RedisPresence, there: RedisPresence) -> None:
        for own in ({"ada": 0.0}, {}):
            said = await asyncio.gather(*(node.say(S, own) for node in (here, there) for _ in range(20)))
            assert sum("ada" in came_or_went(one) for one in said) == 1

    run(scenario)


def test_who_asks_later_has_the_higher_fence(run: Run) -> None:
    async def scenario(here: RedisPresence, there: RedisPresence) -> None:
        fences = [(await node.say(S, {"ada": 0})).fence for node in (here, there) * 50]
        assert fences == sorted(set(fences))
        assert fences[0] > 10**15, "Also when what is known here was forgotten meanwhile, and the log's fence was not"

    run(scenario)


def test_the_users_of_a_node_that_died_are_missed_by_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIFE_SECONDS", 0.5)

    async def scenario(here: RedisPresence, there: RedisPresence) -> None:
        await here.say(S, {"ada": 9, "bob": 0})
        learned: list[Change] = []
        for _ in range(8):
            said = await there.say(S, {"bob": 0, "cy": 0})
            learned += said.changed
            await asyncio.sleep(0.1)
        assert learned.count(Change("ada", "presence")) == 1
        assert came_or_went(said) == set()
        assert users(said) == {"bob": False, "cy": False}, "Who is on another node, too, is still there"
        await there.say(S, {})
        await here.say(S, {"ada": 0})
        await asyncio.sleep(0.6)
        assert came_or_went(await there.say(S, {})) == set(), "When nobody has looked in time, nobody is told"

    run(scenario)


def test_a_user_types_who_types_on_any_node_until_the_time_is_over(run: Run) -> None:
    async def scenario(here: RedisPresence, there: RedisPresence) -> None:
        await here.say(S, {"ada": 0})
        await there.say(S, {"ada": 0})
        assert list((await here.say(S, {"ada": 0.3})).changed) == [Change("ada", "typing")]
        said = await there.say(S, {"ada": 0})
        assert (list(said.changed), users(said)) == ([], {"ada": True})
        await asyncio.sleep(0.4)
        said = await there.say(S, {"ada": 0})
        assert (list(said.changed), users(said)) == ([Change("ada", "typing")], {"ada": False})

    run(scenario)


def test_a_user_may_be_called_anything(run: Run) -> None:
    async def scenario(here: RedisPresence, there: RedisPresence) -> None:
        names = ["a:b", "müller 🙂", '{"x":1}', "0", "a\nb", "presence"]
        await here.say(S, dict.fromkeys(names, 0))
        assert sorted(users(await there.say(S, {}))) == sorted(names)

    run(scenario)


def test_what_redis_has_lost_is_new_when_it_is_said_again(run: Run, valkey: ValkeyServer) -> None:
    async def scenario(here: RedisPresence, there: RedisPresence) -> None:
        await here.say(S, {"ada": 0})
        valkey.ask("FLUSHALL")
        assert users(await there.say(S, {})) == {}
        assert came_or_went(await here.say(S, {"ada": 0})) == {"ada"}

    run(scenario)


def test_deployments_that_share_a_redis_know_nothing_of_each_other(run: Run, valkey: ValkeyServer) -> None:
    async def scenario(here: RedisPresence, _: RedisPresence) -> None:
        await here.say(S, {"ada": 0})
        other = RedisPresence(connect(valkey.url), "other")
        assert users(await other.say(S, {})) == {}
        other.close()

    run(scenario)


def test_a_redis_that_is_away_is_away_soon_and_then_it_is_there_again(run: Run, valkey: ValkeyServer) -> None:
    async def scenario(here: RedisPresence, there: RedisPresence) -> None:
        await here.say(S, {"ada": 0})
        with valkey.frozen():
            async with asyncio.timeout(1.2):
                for node in (here, there):
                    with pytest.raises(RedisAway):
                        await node.say(S, {"ada": 0})
        assert users(await there.say(S, {"bob": 0})) == {"ada": False, "bob": False}

    run(scenario)
