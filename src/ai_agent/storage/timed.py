"""A database whose statements are timed, for `Server-Timing` in development."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ai_agent.observability.timing import timed
from ai_agent.storage.database import Connection, Database, Effect, PoolUse, Reader, Told, shared_connection
from ai_agent.storage.statements import Statement

Row = TypeVar("Row")


class _TimedReader:
    def __init__(self, reader: Reader):
        self._reader = reader

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]:
        with timed("db"):
            return await self._reader.all(statement, **parameters)

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None:
        with timed("db"):
            return await self._reader.first(statement, **parameters)


class _TimedConnection(_TimedReader):
    def __init__(self, connection: Connection):
        super().__init__(connection)
        self._connection = connection

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        with timed("db"):
            return await self._connection.run(statement, **parameters)

    def tell(self, told: Sequence[Told]) -> None:
        self._connection.tell(told)

    def after_commit(self, effect: Effect) -> None:
        self._connection.after_commit(effect)

    async def many(self, statement: Statement[Any], rows: Sequence[dict[str, Any]]) -> None:
        with timed("db"):
            await self._connection.many(statement, rows)


class TimedDatabase:
    def __init__(self, database: Database):
        self._database = database
        self.dialect = database.dialect
        self.reader: Reader = _TimedReader(database.reader)
        self.patient: Reader = _TimedReader(database.patient)

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    def pool_use(self) -> PoolUse:
        return self._database.pool_use()

    async def write(
        self, statement: Statement[Any], *, told: Told | None = None, then: Effect | None = None, **parameters: Any
    ) -> None:
        if shared_connection() is not None:  # Timed by the transaction it is part of.
            await self._database.write(statement, told=told, then=then, **parameters)
            return
        with timed("db"):
            await self._database.write(statement, told=told, then=then, **parameters)

    @asynccontextmanager
    async def unit_of_work(self, *, lock_seconds: float | None = None) -> AsyncIterator[Connection]:
        async with self._database.unit_of_work(lock_seconds=lock_seconds) as rows:
            # A shared one is timed already.
            yield rows if isinstance(rows, _TimedConnection) else _TimedConnection(rows)
