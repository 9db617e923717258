"""Work that a cancel must not cut in two: what a transaction has committed has to be known to who asked for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def undisturbed(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """Brings work to its end although its task is cancelled meanwhile; tells whether it was.

    Of work that fails a cancel is what the caller hears.
    """
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled and not task.cancelled() and (error := task.exception()) is not None:
        raise asyncio.CancelledError from error
    return task.result(), cancelled
