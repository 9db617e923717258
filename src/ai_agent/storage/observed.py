"""A database whose statements are observed: timed for `Server-Timing` in development, or told as spans."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

from ai_agent.storage.database import Connection, Database, Effect, PoolUse, Reader, Told, shared_connection
from ai_agent.storage.statements import Statement

Row = TypeVar("Row")

Observe = Callable[[Statement[Any]], AbstractContextManager[Any]]


class _ObservedReader:
    def __init__(self, reader: Reader, observe: Observe):
        self._reader = reader
        self._observe = observe

    async def all(self, statement: Statement[Row], **parameters: Any) -> list[Row]:
        with self._observe(statement):
            return await self._reader.all(statement, **parameters)

    async def first(self, statement: Statement[Row], **parameters: Any) -> Row | None:
        with self._observe(statement):
            return await self._reader.first(statement, **parameters)


class _ObservedConnection(_ObservedReader):
    def __init__(self, connection: Connection, observe: Observe):
        super().__init__(connection, observe)
        self._connection = connection

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        with self._observe(statement):
            return await self._connection.run(statement, **parameters)

    def tell(self, told: Sequence[Told]) -> None:
        self._connection.tell(told)

    def after_commit(self, effect: Effect) -> None:
        self._connection.after_commit(effect)

    async def many(self, statement: Statement[Any], rows: Sequence[dict[str, Any]]) -> None:
        with self._observe(statement):
            await self._connection.many(statement, rows)


class ObservedDatabase:
    def __init__(self, database: Database, observe: Observe):
        self._database = database
        self._observe = observe
        self.dialect = database.dialect
        self.reader: Reader = _ObservedReader(database.reader, observe)
        self.patient: Reader = _ObservedReader(database.patient, observe)

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    def pool_use(self) -> PoolUse:
        return self._database.pool_use()

    async def write(
        self, statement: Statement[Any], *, told: Told | None = None, then: Effect | None = None, **parameters: Any
    ) -> None:
        if shared_connection() is not None:  # Observed by the transaction it is part of.
            await self._database.write(statement, told=told, then=then, **parameters)
            return
        with self._observe(statement):
            await self._database.write(statement, told=told, then=then, **parameters)

    @asynccontextmanager
    async def unit_of_work(self, *, lock_seconds: float | None = None) -> AsyncIterator[Connection]:
        async with self._database.unit_of_work(lock_seconds=lock_seconds) as rows:
            # A shared one is observed already.
            yield rows if isinstance(rows, _ObservedConnection) else _ObservedConnection(rows, self._observe)
