"""The rows of users' queues: numbered without a hole, each event once, the oldest let go."""

import asyncio
from uuid import UUID, uuid4

from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.inbox import Lane
from ai_agent.storage import inbox, migrations
from ai_agent.storage.database import Database
from ai_agent.storage.inbox import TRIM_STEP, Arrival
from tests.integration.test_database import opened

ALL = [0, 0, 0]


def arrivals(count: int) -> list[Arrival]:
    return [Arrival(new_id(), "notification", to_json({}), None, now(), None) for _ in range(count)]


async def append(database: Database, user: str, lane: Lane, told: list[Arrival], most: int = 10_000) -> bool:
    async with database.unit_of_work() as rows:
        return await inbox.append(rows, user, lane, told, most)


async def waiting(database: Database, user: str, limit: int = 10_000) -> list[tuple[int, int, UUID]]:
    found = await inbox.waiting(database.reader, user, ALL, limit, 30)
    return [(one.lane, one.seq, one.eid) for one in found]


def test_an_event_that_is_relayed_twice_is_there_once(database_url: str) -> None:
    async def scenario() -> None:
        await migrations.upgrade(database_url)
        async with opened(database_url) as database:
            user, told = str(uuid4()), arrivals(3)
            assert await append(database, user, Lane.NORMAL, [told[0], told[1], told[0]])
            assert await append(database, user, Lane.NORMAL, told)
            assert not await append(database, user, Lane.NORMAL, told)
            assert await waiting(database, user) == [(1, seq, one.eid) for seq, one in enumerate(told, 1)]

    asyncio.run(scenario())


def test_lanes_are_numbered_each_by_itself_by_many_at_once(database_url: str) -> None:
    async def scenario() -> None:
        await migrations.upgrade(database_url)
        async with opened(database_url) as database:
            user = str(uuid4())
            lanes = [Lane.NORMAL, Lane.URGENT] * 10
            await asyncio.gather(*(append(database, user, lane, arrivals(5)) for lane in lanes))
            numbers = [(lane, seq) for lane, seq, _ in await waiting(database, user)]
            assert numbers == [(lane, seq) for lane in (0, 1) for seq in range(1, 51)]

    asyncio.run(scenario())


def test_of_a_lane_that_nobody_reads_the_newest_are_kept(database_url: str) -> None:
    async def scenario() -> None:
        await migrations.upgrade(database_url)
        async with opened(database_url) as database:
            user, most = str(uuid4()), 2 * TRIM_STEP
            await append(database, user, Lane.URGENT, arrivals(1))
            for _ in range(5):
                await append(database, user, Lane.BULK, arrivals(TRIM_STEP), most)
            kept = [(lane, seq) for lane, seq, _ in await waiting(database, user)]
            assert kept == [(0, 1)] + [(2, seq) for seq in range(3 * TRIM_STEP + 1, 5 * TRIM_STEP + 1)]

    asyncio.run(scenario())
