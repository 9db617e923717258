"""What a worker does whatever happens around it."""

import asyncio

from ai_agent.execution.speech import _joined
from ai_agent.execution.worker import _undisturbed


def test_the_end_of_a_run_is_not_disturbed_by_a_cancel() -> None:
    async def scenario() -> None:
        written = []

        async def write() -> None:
            await asyncio.sleep(0.02)
            written.append("the end")

        ending = asyncio.create_task(_undisturbed(write()))
        for _ in range(3):
            await asyncio.sleep(0.002)
            ending.cancel()
        assert await ending == (None, True)
        assert written == ["the end"]

    asyncio.run(scenario())


def test_pieces_of_one_kind_are_joined_and_their_order_is_kept() -> None:
    pieces = [("reasoning", "a"), ("token", "b"), ("token", "c"), ("reasoning", "d")]
    assert _joined(pieces) == [("reasoning", "a"), ("token", "bc"), ("reasoning", "d")]
