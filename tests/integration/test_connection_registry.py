"""Which sockets are open on all nodes: counted together in Redis, by each node alone while that is away."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from ai_agent.domain.connections import ConnectionInfo
from ai_agent.domain.fields import new_id, now
from ai_agent.domain.frames import ClientInfo
from ai_agent.realtime.connection_registry import ConnectionRegistry
from ai_agent.storage import connections as module
from ai_agent.storage.connections import RedisConnections
from ai_agent.storage.redis import connect
from tests.servers import ValkeyServer

Scenario = Callable[[ConnectionRegistry, ConnectionRegistry], Awaitable[None]]
Run = Callable[[Scenario], None]


def opened(user: str = "alice", *, instance: str = "", node: str = "here") -> ConnectionInfo:
    client = ClientInfo("web", instance)
    return ConnectionInfo(new_id(), user, node, "192.0.2.1", client, ["session:1"], now())


async def ids(registry: ConnectionRegistry) -> set[UUID]:
    return {info.id for info in await registry.all()}


@pytest.fixture
def run(valkey: ValkeyServer) -> Run:
    """Runs a scenario on two nodes of an empty Redis."""

    def runs(scenario: Scenario) -> None:
        valkey.ask("FLUSHALL")

        async def on_two_nodes() -> None:
            here, there = (ConnectionRegistry(RedisConnections(connect(valkey.url), "test")) for _ in range(2))
            try:
                await scenario(here, there)
            finally:
                await here.close()
                await there.close()

        asyncio.run(on_two_nodes())

    return runs


def test_a_user_has_so_many_places_on_all_nodes(run: Run) -> None:
    async def scenario(here: ConnectionRegistry, there: ConnectionRegistry) -> None:
        first, second = opened(), opened()
        assert (await here.claim(first, 2)).admitted
        assert (await there.claim(second, 2)).admitted
        for node in (here, there):
            assert not (await node.claim(opened(), 2)).admitted
            assert (await node.claim(opened("bob"), 2)).admitted
        await here.release(first)
        assert (await there.claim(opened(), 2)).admitted

    run(scenario)


def test_of_many_who_come_at_once_so_many_get_a_place(run: Run) -> None:
    async def scenario(here: ConnectionRegistry, there: ConnectionRegistry) -> None:
        claims = await asyncio.gather(*(node.claim(opened(), 5) for node in (here, there) for _ in range(20)))
        assert sum(claim.admitted for claim in claims) == 5

    run(scenario)


def test_each_node_sees_all_as_they_are(run: Run) -> None:
    async def scenario(here: ConnectionRegistry, there: ConnectionRegistry) -> None:
        one, other = opened(), opened("bob", node="there")
        await here.claim(one, 10)
        await there.claim(other, 10)
        assert sorted(await here.all(), key=lambda info: info.id) == [one, other]
        await there.release(other)
        assert await here.all() == [one]

    run(scenario)


def test_the_same_client_takes_its_own_place(run: Run) -> None:
    async def scenario(here: ConnectionRegistry, there: ConnectionRegistry) -> None:
        old, new, newest = (opened(instance="tab") for _ in range(3))
        await here.claim(old, 1)
        assert (await there.claim(new, 1)).replaced == old.id
        assert await ids(here) == {new.id}
        await here.release(old)
        assert (await here.claim(newest, 1)).replaced == new.id, "The old one's end takes nothing from the new one"

    run(scenario)


def test_nobody_takes_the_place_of_another_user_or_client(run: Run) -> None:
    async def scenario(here: ConnectionRegistry, there: ConnectionRegistry) -> None:
        await here.claim(opened("a:b", instance="c"), 10)
        for other in (opened("a", instance="b:c"), opened("a:b", instance="d"), opened("a:b")):
            assert (await there.claim(other, 10)).replaced is None
        assert len(await here.all()) == 4

    run(scenario)


def test_the_places_of_a_node_that_died_are_free_soon(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIFE_SECONDS", 0.5)

    async def scenario(here: ConnectionRegistry, there: ConnectionRegistry) -> None:
        dead, alive = opened(instance="tab"), opened()
        await here.claim(dead, 2)
        await there.claim(alive, 2)
        for _ in range(3):
            await asyncio.sleep(0.2)
            await there.keep([alive])
        assert await ids(there) == {alive.id}
        claim = await there.claim(opened(instance="tab"), 2)
        assert (claim.admitted, claim.replaced) == (True, None)
        assert not (await there.claim(opened(), 2)).admitted

    run(scenario)


def test_what_redis_has_lost_is_said_again(run: Run, valkey: ValkeyServer) -> None:
    async def scenario(here: ConnectionRegistry, there: ConnectionRegistry) -> None:
        one = opened(instance="tab")
        await here.claim(one, 1)
        valkey.ask("FLUSHALL")
        assert await ids(there) == set()
        await here.keep([one])
        assert await ids(there) == {one.id}
        assert not (await there.claim(opened(), 1)).admitted
        assert (await there.claim(opened(instance="tab"), 1)).replaced == one.id

    run(scenario)


def test_while_redis_is_away_a_node_counts_its_own_and_then_all_together_again(run: Run, valkey: ValkeyServer) -> None:
    async def scenario(here: ConnectionRegistry, there: ConnectionRegistry) -> None:
        before, meanwhile = opened(), opened(instance="tab")
        await here.claim(before, 2)
        with valkey.frozen():
            began = time.monotonic()
            assert (await here.claim(meanwhile, 2)).admitted
            assert not (await here.claim(opened(), 2)).admitted
            assert await ids(here) == {before.id, meanwhile.id}
            await here.release(before)
            assert (await here.claim(opened(), 2)).admitted
            assert time.monotonic() - began < 0.6, "It is waited for once"
        assert (await there.claim(opened(), 3)).admitted
        await here.keep([meanwhile])
        assert not here.alone
        assert len(await there.all()) == 3
        assert not (await there.claim(opened(), 3)).admitted

    run(scenario)


def test_without_redis_there_is_one_node() -> None:
    async def scenario() -> None:
        registry = ConnectionRegistry(None)
        old, other, new = opened(instance="tab"), opened(), opened(instance="tab")
        assert [(await registry.claim(one, 2)).admitted for one in (old, other, opened())] == [True, True, False]
        assert (await registry.claim(new, 2)).replaced == old.id
        await registry.release(other)
        assert await registry.all() == [new]

    asyncio.run(scenario())
