import asyncio

import pytest

from ai_agent import background
from ai_agent.background import cancel_and_wait


def test_a_task_that_swallows_a_cancel_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "AGAIN_SECONDS", 0.01)
    swallowed: list[int] = []

    async def stubborn() -> None:
        while len(swallowed) < 3:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                swallowed.append(1)
        await asyncio.sleep(10)

    async def scenario() -> None:
        task, ended = asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(0))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await cancel_and_wait(task, ended, None)
        assert task.cancelled()
        assert not ended.cancelled()

    asyncio.run(scenario())
    assert len(swallowed) == 3
