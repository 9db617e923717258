"""Chores that are done again and again."""

import asyncio

import pytest

from ai_agent.services.housekeeping import Housekeeping


def test_a_chore_that_fails_keeps_neither_the_others_nor_itself_from_the_next_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done: list[str] = []

    async def failing() -> int:
        done.append("failing")
        raise ValueError("broken")

    async def working() -> int:
        done.append("working")
        return 1

    async def scenario() -> None:
        house = Housekeeping({"failing": failing, "working": working}, seconds=0.001)
        house.start()
        while len(done) < 4:
            await asyncio.sleep(0.001)
        await house.close()

    asyncio.run(scenario())
    assert done[:4] == ["failing", "working"] * 2
    assert "housekeeping_failed" in capsys.readouterr().out
