"""What handlers are given."""

from typing import Any

from litestar import Request
from litestar.datastructures import State
from litestar.di import Provide

from ai_agent.domain.identity import Principal

Caller = Request[Principal, None, State]
"""A request whose `user` is the authenticated Principal."""


def given(value: Any) -> Provide:
    """A dependency that is always the same object."""
    return Provide(lambda: value, sync_to_thread=False, use_cache=True)
