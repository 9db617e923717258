"""Tasks that go on in the background, as long as what they belong to."""

import asyncio
from typing import Any

AGAIN_SECONDS = 1.0


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancels tasks, again and again until each has ended.

    Once is not enough: libraries swallow a cancel that meets the end of what they wait for, `asyncio.wait_for` of
    Python 3.11 among them (github.com/python/cpython/issues/86296), and the task would go on for ever.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_SECONDS)
