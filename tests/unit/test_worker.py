"""What a worker does whatever happens around it."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.events import NewEvent
from ai_agent.domain.fields import new_id
from ai_agent.execution.speech import Speech, _joined
from ai_agent.execution.undisturbed import undisturbed
from ai_agent.execution.worker import Worker
from ai_agent.settings import Settings


def test_the_end_of_a_run_is_not_disturbed_by_a_cancel() -> None:
    async def scenario() -> None:
        written = []

        async def write() -> None:
            await asyncio.sleep(0.02)
            written.append("the end")

        ending = asyncio.create_task(undisturbed(write()))
        for _ in range(3):
            await asyncio.sleep(0.002)
            ending.cancel()
        assert await ending == (None, True)
        assert written == ["the end"]

    asyncio.run(scenario())


def test_words_whose_commit_a_cancel_meets_are_logged_once() -> None:
    logged: list[str] = []

    async def write(events: Sequence[NewEvent]) -> None:
        logged.extend(msgspec.json.decode(event.data)["text"] for event in events)
        await asyncio.sleep(0.02)

    async def scenario() -> None:
        speech = Speech(write, new_id())
        saying = asyncio.create_task(speech.say("token", "once"))
        await asyncio.sleep(0.005)
        saying.cancel()
        await asyncio.wait([saying])
        assert saying.cancelled()
        await speech.flush()
        assert logged == ["once"]

    asyncio.run(scenario())


def test_pieces_of_one_kind_are_joined_and_their_order_is_kept() -> None:
    pieces = [("reasoning", "a"), ("token", "b"), ("token", "c"), ("reasoning", "d")]
    assert _joined(pieces) == [("reasoning", "a"), ("token", "bc"), ("reasoning", "d")]


class Deaf:
    """A queue, and the runs that wait for it, whose first enqueue does not hear that it is cancelled."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def recover(self) -> list[UUID]:
        return [new_id()]

    async def enqueue(self, _: UUID) -> None:
        if not self.asked.is_set():
            self.asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async def work(self, _: object) -> None: ...

    async def close(self) -> None: ...


def test_a_worker_stops_also_when_its_sweeper_does_not_hear_of_it() -> None:
    async def scenario() -> None:
        deaf: Any = Deaf()
        worker = Worker(Settings(execution_sweep_seconds=0.05), deaf, deaf, deaf, deaf)
        await worker.start()
        await deaf.asked.wait()
        async with asyncio.timeout(5):
            await worker.close()

    asyncio.run(scenario())
