"""The database as the other rooms see it: a reader, and units of work that are committed before anyone answers."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from ai_agent.domain.errors import Conflict
from ai_agent.storage.statements import Statement

Row = TypeVar("Row")

ACQUIRE_SECONDS = 1.0
"""How long a statement waits for a free connection before it answers 503."""
PATIENCE_SECONDS = 5.0
"""How long a statement of a search may take."""


class Reader(Protocol):
    """Runs statements that change nothing. Parameters are the names in the statement; missing ones are null.

    All methods raise ServiceUnavailable when the database is away, busy or too slow.
    """

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]: ...

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None: ...


class Connection(Reader, Protocol):
    """A transaction. Its methods raise UniqueViolation, and what those of a Reader raise."""

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        """Runs a statement without rows and tells how many it touched."""

    async def many(self, statement: Statement[Any], rows: Sequence[dict[str, Any]]) -> None:
        """Runs a statement without rows once for each set of parameters, in order and in one round trip."""


class Database(Protocol):
    dialect: str
    reader: Reader
    """For reading without a transaction: each statement sees what is committed, and none waits for a writer."""
    patient: Reader
    """The same for a search: its statements may take longer, and are planned for the very values they are given."""

    async def open(self) -> None:
        """Raises ConfigurationError when the database cannot be reached."""

    async def close(self) -> None: ...

    def unit_of_work(self) -> AbstractAsyncContextManager[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""


class UniqueViolation(Conflict):
    """A unique constraint refused the row. `constraint` is its name, or its columns on SQLite."""

    def __init__(self, constraint: str):
        super().__init__("A row with these values exists already")
        self.constraint = constraint
