"""What SIGINT and SIGTERM mean to a process that serves or works: it is drained first, and stopped then."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

log = structlog.get_logger()


@contextmanager
def drained_on_signal(drain: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """The first signal begins `drain`; who handled it before, as the server around us, hears of it when that is over.

    The same signal again ends the process at once, with 1. Where nobody handles a signal, and outside the main thread,
    all stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = _Signals(drain)
    for number in signals.before:
        signal.signal(number, signals.hear)
    try:
        yield
    finally:
        signals.stop()
        for number, handler in signals.before.items():
            signal.signal(number, handler)


class _Signals:
    """`before` are the handlers that were there."""

    def __init__(self, drain: Callable[[], Awaitable[None]]):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.before = {number: handler for number, handler in handlers.items() if callable(handler)}
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._heard: set[int] = set()
        self._draining: asyncio.Task[None] | None = None

    def hear(self, number: int, _: FrameType | None) -> None:
        if number in self._heard:
            sys.stdout.flush()
            os._exit(1)
        # Another one is no second wish: supervisors send SIGTERM behind the SIGINT that a terminal has sent to all.
        if not self._heard:
            self._loop.call_soon_threadsafe(self._begin, number)
        self._heard.add(number)

    def stop(self) -> None:
        if self._draining is not None:
            self._draining.cancel()

    def _begin(self, number: int) -> None:
        self._draining = asyncio.create_task(self._pass_on(number))

    async def _pass_on(self, number: int) -> None:
        try:
            await self._drain()
        except Exception:
            log.exception("drain_failed")
        self.before[signal.Signals(number)](number, None)
