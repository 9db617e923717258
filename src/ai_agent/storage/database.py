"""The database as the other rooms see it: a reader, and units of work that are committed before anyone answers."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar

from ai_agent.domain.errors import Conflict, ServiceUnavailable
from ai_agent.domain.events import NewEvent
from ai_agent.storage.statements import Statement

Row = TypeVar("Row")

Effect = Callable[[], Awaitable[None]]

ACQUIRE_SECONDS = 1.0
"""How long a statement waits for a free connection before it answers 503."""
PATIENCE_SECONDS = 5.0
"""How long a statement of a search may take."""


class Told(NamedTuple):
    """An event on its way to the outbox. `fence` is that under which a worker holds its run."""

    channel: str
    event: NewEvent
    fence: int = 0


class PoolUse(NamedTuple):
    """Connections there may be, those that are lent out, and statements that wait for one."""

    size: int
    in_use: int
    waiting: int


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

    def tell(self, told: Sequence[Told]) -> None:
        """Writes events to the outbox, in order, together with the commit.

        The transaction holds the row that the channel is about, so that the order of events is that of commits.
        """

    def after_commit(self, effect: Effect) -> None:
        """Does something that must not be done for nothing, such as telling others, when all is committed."""


class Database(Protocol):
    dialect: str
    reader: Reader
    """For reading without a transaction: each statement sees what is committed, and none waits for a writer."""
    patient: Reader
    """The same for a search: its statements may take longer, and are planned for the very values they are given."""

    async def open(self) -> None:
        """Raises ConfigurationError when the database cannot be reached."""

    async def close(self) -> None: ...

    def pool_use(self) -> PoolUse: ...

    def unit_of_work(self, *, lock_seconds: float | None = None) -> AbstractAsyncContextManager[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Where one is shared, it is part of that, and not committed behind its block: see `after_commit`.
        A statement that waits longer than `lock_seconds` for another transaction raises LockTimeout.
        """

    async def write(
        self, statement: Statement[Any], *, told: Told | None = None, then: Effect | None = None, **parameters: Any
    ) -> None:
        """A transaction of one statement, in one round trip; part of the shared one where there is one.

        With an event for the outbox, and something to do when all is committed.
        """


class LockTimeout(ServiceUnavailable):
    """Another transaction kept what a statement needs for too long."""


_shared: ContextVar[list[Connection]] = ContextVar("shared_transaction")


@contextmanager
def shared(connection: Connection) -> Iterator[None]:
    """Inside the block, units of work of this request are parts of the given transaction."""
    holder = [connection]
    token = _shared.set(holder)
    try:
        yield
    finally:
        # Also for tasks that were started inside, and outlive it.
        holder.clear()
        _shared.reset(token)


def shared_connection() -> Connection | None:
    holder = _shared.get(None)
    return holder[0] if holder else None


class UniqueViolation(Conflict):
    """A unique constraint refused the row. `constraint` is its name, or its columns on SQLite."""

    def __init__(self, constraint: str):
        super().__init__("A row with these values exists already")
        self.constraint = constraint
