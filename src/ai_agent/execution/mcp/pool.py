"""Connections to MCP servers, one each, opened when it is needed and kept while it is used.

A connection belongs to one task, which opens and closes it; callers wait for it, and whatever happens to one of them,
or to a server, is nothing to the others.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.fields import JsonObject
from ai_agent.domain.mcp_servers import Transport
from ai_agent.execution.mcp.failures import McpFailed, McpLost
from ai_agent.execution.mcp.protocol import Connection, Link, Tell
from ai_agent.storage.mcp_servers import Configuration

CONNECT_SECONDS = {Transport.STREAMABLE_HTTP: 5.0, Transport.STDIO: 15.0}
"""A child process has to load what it is made of first."""
LIST_SECONDS = 10.0
IDLE_SECONDS = 300.0
MOST_CHILDREN = 64
"""Child processes of one of ours."""
CLOSE_SECONDS = 6.0

Connect = Callable[[Configuration], Awaitable[Link]]

log = structlog.get_logger()


class Listing(msgspec.Struct, frozen=True):
    """What a server said of itself, and all tools that it lists, as it lists them."""

    version: str
    capabilities: JsonObject
    tools: list[Any]
    latency_ms: float


class _Member:
    """A server's connection and the task that it belongs to."""

    def __init__(self, asked: Configuration, connect: Connect):
        self._asked = asked
        self._connect = connect
        self.configured_at: datetime = asked.updated_at
        self.transport = asked.transport
        self.users = 0
        self.used_at = time.monotonic()
        self._unused = asyncio.Event()
        self._let_go = asyncio.Event()
        self._opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.owner = asyncio.create_task(self._own())

    @property
    def is_over(self) -> bool:
        return self._let_go.is_set() or self.owner.done()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Keeps it open while it is used. Raises McpFailed when it cannot be opened."""
        self.users += 1
        self._unused.clear()
        try:
            yield await asyncio.shield(self._opened)
        finally:
            self.users -= 1
            self.used_at = time.monotonic()
            if not self.users:
                self._unused.set()

    def let_go(self) -> None:
        """Nobody begins to use it any more, and who does goes on."""
        self._let_go.set()
        if not self.users:
            self._unused.set()

    async def _left(self) -> None:
        await self._let_go.wait()
        await self._unused.wait()

    async def _own(self) -> None:
        seconds = CONNECT_SECONDS[self.transport]
        connection: Connection | None = None
        try:
            async with asyncio.timeout(seconds):
                connection = Connection(await self._connect(self._asked))
                await connection.open()
            self._opened.set_result(connection)
            await self._until_over(connection)
        except TimeoutError:
            self._fail(McpLost(f"The server did not greet within {seconds:g} s", unsent=True))
        except McpFailed as error:
            self._fail(error)
        except Exception:
            log.exception("mcp_connection_crashed", mcp_server_id=str(self._asked.id))
            self._fail(McpLost("The connection failed", unsent=True))
        finally:
            self._fail(McpLost("The connection was closed", unsent=True))
            if connection is not None:
                await connection.close()

    def _fail(self, error: McpFailed) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # Nobody may be waiting for it any more.

    async def _until_over(self, connection: Connection) -> None:
        """Until the server has gone, all have left that used it, or nobody has used it for long."""
        ends = [asyncio.create_task(connection.ended()), asyncio.create_task(self._left())]
        try:
            done: set[asyncio.Task[Any]] = set()
            while not done and (self.users or time.monotonic() - self.used_at < IDLE_SECONDS):
                rest = IDLE_SECONDS if self.users else IDLE_SECONDS - (time.monotonic() - self.used_at)
                done, _ = await asyncio.wait(ends, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            self._let_go.set()
        finally:
            await cancel_and_wait(*ends)


class McpPool:
    """`connect` makes the link to a server; nothing of a transport is imported before it is called."""

    def __init__(self, connect: Connect):
        self._connect = connect
        self._members: dict[UUID, _Member] = {}
        self._owners: set[asyncio.Task[None]] = set()
        self._closing = False

    async def listing(self, asked: Configuration, *, keep: bool = True) -> Listing:
        """What a server says of itself and its tools, now. Without `keep`, what was opened for it is closed again.

        Raises McpFailed.
        """
        begun = time.monotonic()
        was_open = asked.id in self._members
        try:
            async with self._use(asked) as connection:
                try:
                    async with asyncio.timeout(LIST_SECONDS):
                        tools = await connection.list_tools()
                except TimeoutError:
                    raise McpLost(f"The server did not list its tools within {LIST_SECONDS:g} s") from None
        finally:
            if not keep and not was_open:
                self._drop(asked.id)
        took = round((time.monotonic() - begun) * 1000, 3)
        return Listing(connection.version, connection.capabilities, tools, took)

    async def call(
        self, asked: Configuration, name: str, schema: JsonObject, arguments: JsonObject, *, again: bool, tell: Tell
    ) -> JsonObject:
        """The result of a tool. When the connection was lost the call is made once more where that is safe.

        That is when it surely never began, or may be made `again`. Raises McpFailed.
        """
        try:
            return await self._call_once(asked, name, schema, arguments, tell)
        except McpLost as lost:
            if not (lost.unsent or again):
                raise
        return await self._call_once(asked, name, schema, arguments, tell)

    async def _call_once(
        self, asked: Configuration, name: str, schema: JsonObject, arguments: JsonObject, tell: Tell
    ) -> JsonObject:
        async with self._use(asked) as connection:
            return await connection.call_tool(name, schema, arguments, tell)

    @asynccontextmanager
    async def _use(self, asked: Configuration) -> AsyncIterator[Connection]:
        """A server's connection. One that was lost is not used again. Raises McpFailed."""
        member = self._member(asked)
        try:
            async with member.connection() as connection:
                yield connection
        except McpLost:
            if self._members.get(asked.id) is member:
                self._drop(asked.id)
            raise

    def _member(self, asked: Configuration) -> _Member:
        if self._closing:
            raise McpLost("The server is stopping", unsent=True)
        member = self._members.get(asked.id)
        if member is not None and (member.configured_at != asked.updated_at or member.is_over):
            self._drop(asked.id)
            member = None
        if member is None:
            if asked.transport is Transport.STDIO:
                self._make_room()
            member = self._members[asked.id] = _Member(asked, self._connect)
            self._owners.add(member.owner)
            member.owner.add_done_callback(lambda owner: self._ended(asked.id, owner))
        return member

    def _make_room(self) -> None:
        """Lets the child go that was not used for longest, where there are as many as there may be."""
        children = {key: one for key, one in self._members.items() if one.transport is Transport.STDIO}
        if len(children) < MOST_CHILDREN:
            return
        idle = [key for key, one in children.items() if not one.users]
        if not idle:
            raise McpLost(f"There are {MOST_CHILDREN} processes of MCP servers already, and all are busy", unsent=True)
        self._drop(min(idle, key=lambda key: children[key].used_at))

    async def forget(self, server_id: UUID) -> None:
        """Closes what is open to a server that was changed or deleted; other processes do when it is idle."""
        self._drop(server_id)

    def _drop(self, server_id: UUID) -> None:
        if (member := self._members.pop(server_id, None)) is not None:
            member.let_go()

    def _ended(self, server_id: UUID, owner: "asyncio.Task[None]") -> None:
        self._owners.discard(owner)
        member = self._members.get(server_id)
        if member is not None and member.owner is owner:
            del self._members[server_id]

    async def close(self) -> None:
        """Closes every connection, side by side; child processes are gone when it ends."""
        self._closing = True
        owners = list(self._owners)
        for server_id in list(self._members):
            self._drop(server_id)
        if owners:
            await asyncio.wait(owners, timeout=CLOSE_SECONDS)
        await cancel_and_wait(*owners)
