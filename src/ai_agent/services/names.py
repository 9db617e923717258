"""Names that an owner may give once."""

import contextlib
from collections.abc import Iterator

from ai_agent.domain.errors import Conflict
from ai_agent.storage.database import UniqueViolation


@contextlib.contextmanager
def name_taken(what: str, name: str) -> Iterator[None]:
    """Around writing it. `what` it is the name of, with its article. Raises Conflict."""
    try:
        yield
    except UniqueViolation as error:
        raise Conflict(f"{what} named {name} exists already", details={"field": "name"}) from error
