"""How long to wait before trying again. Source: full jitter, Brooker, "Exponential Backoff And Jitter"."""

import random

FIRST_WAIT_MS = 500
LONGEST_WAIT_MS = 20_000


def longest_wait_ms(failures: int) -> int:
    """Of the wait behind the so-manieth failure in a row, counted from 1."""
    return min(FIRST_WAIT_MS << min(failures - 1, 16), LONGEST_WAIT_MS)


def share(milliseconds: float) -> float:
    """A random part of a time, in seconds: so that not all come back in the same moment."""
    return random.uniform(0, milliseconds / 1000)  # noqa: S311  # not a secret
