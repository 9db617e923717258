"""Where the time of a request went, for `Server-Timing` in development.

Source: W3C, "Server Timing".
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

_parts: ContextVar[dict[str, float] | None] = ContextVar("timing", default=None)


def begin_timing() -> None:
    """From here on, the parts of this request are timed."""
    _parts.set({})


_NOTHING: AbstractContextManager[None] = nullcontext()


def timed(part: str) -> AbstractContextManager[None]:
    """Adds the block's time to a part; does nothing in a request that is not timed."""
    parts = _parts.get()
    return _NOTHING if parts is None else _timed(parts, part)


@contextmanager
def _timed(parts: dict[str, float], part: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        parts[part] = parts.get(part, 0.0) + time.perf_counter() - began


def server_timing() -> str:
    """The header's value, in milliseconds; empty when nothing was timed."""
    return ", ".join(f"{part};dur={seconds * 1000:.3f}" for part, seconds in (_parts.get() or {}).items())
