"""What is committed is told, in order and once, whoever dies and whatever is away meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
import pytest

from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.domain.events import EventType, NewEvent
from ai_agent.realtime import publisher as publishing
from ai_agent.realtime.event_log import Fenced, Position
from ai_agent.realtime.inbox import Inbox
from ai_agent.realtime.memory_log import MemoryLog
from ai_agent.realtime.publisher import Publisher
from ai_agent.storage import migrations, outbox
from ai_agent.storage.database import Database, Told
from ai_agent.storage.engine import create_database

Scenario = Callable[[Database, str], Awaitable[None]]


class AwayLog(MemoryLog):
    """A log that can be away for a while."""

    away = False

    async def append(self, channel: str, events: Sequence[NewEvent], *, fence: int = 0) -> Position:
        if self.away:
            raise ServiceUnavailable("away")
        return await super().append(channel, events, fence=fence)


class UnsureLog(MemoryLog):
    """A log whose server may still lose what it has answered."""

    sure_until = 0.0

    @property
    def kept_until(self) -> float:
        return self.sure_until


@pytest.fixture(scope="module")
def run(database_url: str) -> Callable[[Scenario], None]:
    """Runs a scenario on a migrated database, with a channel of its own."""
    asyncio.run(migrations.upgrade(database_url))

    async def play(scenario: Scenario) -> None:
        database = create_database(database_url, pool_size=4, statement_timeout=2)
        await database.open()
        try:
            async with asyncio.timeout(20):
                await scenario(database, f"execution:{uuid4()}")
        finally:
            await database.close()

    return lambda scenario: asyncio.run(play(scenario))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "RELAY_SECONDS", 0.1)
    monkeypatch.setattr(publishing, "CONFIRM_SECONDS", 0.02)


@asynccontextmanager
async def started(database: Database, log: MemoryLog) -> AsyncIterator[Publisher]:
    publisher = Publisher(database, log, Inbox(database, log, try_seconds=30, most_tries=5))
    publisher.start()
    try:
        yield publisher
    finally:
        await publisher.close()


async def committed(database: Database, channel: str, *texts: str, fence: int = 0) -> None:
    """Leaves events in the outbox, as a process that dies behind its commit."""
    async with database.unit_of_work() as rows:
        rows.tell([Told(channel, NewEvent.of(EventType.PROGRESS, text), fence) for text in texts])


async def recorded(publisher: Publisher, database: Database, channel: str, text: str, fence: int = 0) -> None:
    async with database.unit_of_work() as rows:
        publisher.record(rows, channel, (EventType.PROGRESS, text), fence=fence)


async def told(log: MemoryLog, channel: str) -> list[str]:
    return [msgspec.json.decode(event.data) for event in (await log.read(channel, Position("", 0), 100)).events]


async def has_told(log: MemoryLog, channel: str, *texts: str) -> bool:
    return await told(log, channel) == list(texts)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


async def leaves(database: Database, channel: str, count: int) -> bool:
    return len(await outbox.others(database.reader, [channel], [])) == count


async def is_confirmed(database: Database, channel: str) -> bool:
    return not await outbox.others(database.reader, [channel], [])


def test_what_is_committed_is_told_at_once_and_then_leaves_the_outbox(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RELAY_SECONDS", 600)

    async def scenario(database: Database, channel: str) -> None:
        log = MemoryLog()
        async with started(database, log) as publisher:
            for text in ("one", "two", "three"):
                await recorded(publisher, database, channel, text)
            await until(lambda: has_told(log, channel, "one", "two", "three"))
            await until(lambda: is_confirmed(database, channel))
        assert await told(log, channel) == ["one", "two", "three"]

    run(scenario)


def test_what_the_log_may_still_lose_stays_in_the_outbox(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log = UnsureLog()
        async with started(database, log) as publisher:
            await recorded(publisher, database, channel, "one")
            await until(lambda: has_told(log, channel, "one"))
            log.sure_until = time.monotonic()
            await recorded(publisher, database, channel, "two")
            await until(lambda: has_told(log, channel, "one", "two"))
            await until(lambda: leaves(database, channel, 1))
            await asyncio.sleep(0.1)
            assert await leaves(database, channel, 1)
            log.sure_until = time.monotonic()
            await until(lambda: is_confirmed(database, channel))

    run(scenario)


def test_what_is_not_committed_is_not_told(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log = MemoryLog()
        async with started(database, log) as publisher:
            with pytest.raises(ZeroDivisionError):
                async with database.unit_of_work() as rows:
                    publisher.record(rows, channel, (EventType.PROGRESS, "never"))
                    raise ZeroDivisionError
            await asyncio.sleep(0.3)
        assert await told(log, channel) == []

    run(scenario)


def test_what_a_dead_process_left_is_told_by_another_one_in_order_and_once(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log = MemoryLog()
        await committed(database, channel, "one", "two", fence=1)
        await committed(database, channel, "three", fence=2)
        async with started(database, log), started(database, log):
            await until(lambda: is_confirmed(database, channel))
        assert await told(log, channel) == ["one", "two", "three"]

    run(scenario)


def test_what_a_dead_process_left_is_told_before_what_comes_next(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log = MemoryLog()
        await committed(database, channel, "left behind")
        publisher = Publisher(database, log, Inbox(database, log, try_seconds=30, most_tries=5))
        await recorded(publisher, database, channel, "next")
        await publisher.publish([channel])
        assert await told(log, channel) == ["left behind", "next"]

    run(scenario)


def test_an_event_that_was_told_and_not_confirmed_is_not_told_again(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log = MemoryLog()
        dying = Publisher(
            database, log, Inbox(database, log, try_seconds=30, most_tries=5)
        )  # Not started: it publishes, and dies before it confirms.
        await recorded(dying, database, channel, "one")
        await dying.publish([channel])
        await dying.publish([channel])
        await recorded(dying, database, channel, "two")
        await dying.publish([channel])
        assert not await is_confirmed(database, channel)
        async with started(database, log):
            await until(lambda: is_confirmed(database, channel))
        assert await told(log, channel) == ["one", "two"]

    run(scenario)


def test_what_could_not_be_told_is_told_when_the_log_is_back(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log = AwayLog()
        async with started(database, log) as publisher:
            log.away = True
            await recorded(publisher, database, channel, "one")
            await recorded(publisher, database, channel, "two")
            with pytest.raises(ServiceUnavailable):
                await publisher.tell(channel, [NewEvent.of(EventType.TOKEN, "a token")])
            await asyncio.sleep(0.3)
            log.away = False
            await publisher.tell(channel, [NewEvent.of(EventType.TOKEN, "a token")])
            assert await told(log, channel) == ["one", "two", "a token"]
            log.away = True
            await recorded(publisher, database, channel, "three")
            await asyncio.sleep(0.3)
            log.away = False
            await until(lambda: is_confirmed(database, channel))
        assert await told(log, channel) == ["one", "two", "a token", "three"]

    run(scenario)


def test_the_relay_goes_on_when_the_database_is_back(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log, left_behind = MemoryLog(), outbox.left_behind

        async def away(*_: object) -> list[str]:
            raise ServiceUnavailable("away")

        await committed(database, channel, "one")
        async with started(database, log):
            monkeypatch.setattr(outbox, "left_behind", away)
            await asyncio.sleep(0.3)
            assert await told(log, channel) == []
            monkeypatch.setattr(outbox, "left_behind", left_behind)
            await until(lambda: is_confirmed(database, channel))
        assert await told(log, channel) == ["one"]

    run(scenario)


def test_a_committed_event_of_a_worker_that_lost_its_run_is_told_and_its_tokens_are_not(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log = MemoryLog()
        publisher = Publisher(database, log, Inbox(database, log, try_seconds=30, most_tries=5))
        await log.append(channel, [NewEvent.of(EventType.STARTED, "by another worker")], fence=2)
        await recorded(publisher, database, channel, "committed", fence=1)
        await publisher.publish([channel])
        with pytest.raises(Fenced):
            await publisher.tell(channel, [NewEvent.of(EventType.TOKEN, "late")], fence=1)
        assert await told(log, channel) == ["by another worker", "committed"]

    run(scenario)


def test_of_a_channel_that_was_forgotten_nothing_is_told_and_nothing_waits(run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, channel: str) -> None:
        log = MemoryLog()
        await log.append(channel, [NewEvent.of(EventType.STARTED, "secret")], fence=1)
        await log.forget(channel)
        await committed(database, channel, "late", fence=1)
        async with started(database, log):
            await until(lambda: is_confirmed(database, channel))
        assert await told(log, channel) == []

    run(scenario)


@pytest.mark.parametrize("kind", [EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED])
def test_the_events_of_a_run_are_kept_for_a_day_after_its_end(
    run: Callable[[Scenario], None], kind: EventType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publishing.KEPT_SECONDS_AFTER_END == 24 * 60 * 60
    monkeypatch.setattr(publishing, "KEPT_SECONDS_AFTER_END", 0.05)

    async def scenario(database: Database, channel: str) -> None:
        log = MemoryLog()
        async with started(database, log) as publisher:
            await recorded(publisher, database, "execution:live", "goes on")
            async with database.unit_of_work() as rows:
                publisher.record(rows, channel, (kind, "ended"))
            await until(lambda: has_told(log, channel, "ended"))
            await until(lambda: is_confirmed(database, channel))
        await asyncio.sleep(0.1)
        assert await log.forget_expired() == 1
        assert await told(log, channel) == []

    run(scenario)
