"""The OpenAPI document, made from the operations themselves, and what a handler may declare for it."""

from typing import Any

STREAMS = {"streams": True}
"""`opt` of an operation that can answer with the events of an execution."""

UNCONDITIONAL = {"conditional": False}
"""`opt` of a DELETE that takes no `If-Match`, because what it deletes has no entity tag."""


def may_answer(*statuses: int) -> dict[str, Any]:
    """`opt` of an operation that fails in ways that its method, path and body do not tell: `may_answer(409)`."""
    return {"statuses": statuses}
