"""A socket without a network: what a server would receive and send, in the test's own loop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from ai_agent.api.websocket.auth import Login
from ai_agent.api.websocket.channels import Channels
from ai_agent.api.websocket.connection import Connection, Rooms
from ai_agent.api.websocket.protocol import JSON, WRITE, Message
from ai_agent.domain.channels import Channel
from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.identity import Principal
from ai_agent.realtime.event_log import EventLog
from ai_agent.settings import Settings

SOMEBODY = Principal("somebody", frozenset({"admin"}))
TOPIC = "topic:news"


class Everybody:
    """Lets everybody listen, and in with the token `good`."""

    async def check(self, _: Principal, __: Channel) -> tuple[str, ...]:
        return ()

    async def on_upgrade(self, _: object) -> Login | None:
        return None

    async def verify(self, token: str, _: str) -> Login:
        if token != "good":
            raise AuthenticationError
        return Login(SOMEBODY, token)


class Alone:
    """A node without others."""

    node = "test"

    def __init__(self) -> None:
        self.connections: set[Connection] = set()

    def enter(self, _: Connection) -> None: ...

    async def add(self, connection: Connection) -> None:
        self.connections.add(connection)

    def changed(self, _: Connection) -> None: ...

    async def remove(self, connection: Connection) -> None:
        self.connections.discard(connection)


class Wire:
    """Both ends of a connection. `takes` is cleared by a client that takes nothing."""

    def __init__(self, log: EventLog, **settings: Any):
        self.log = log
        everybody: Any = Everybody()
        rooms = Rooms(
            settings=Settings(**settings),
            authenticator=everybody,
            manager=Alone(),  # type: ignore[arg-type]
            channels=Channels(everybody, log, None, None, None),  # type: ignore[arg-type]  # no executions and no queues here
            calls=None,  # type: ignore[arg-type]  # no methods here
        )
        scope: Any = {"correlation_id": "c1", "client_address": "127.0.0.1", "extensions": {WRITE: self._write}}
        self._in: asyncio.Queue[Message] = asyncio.Queue()
        self._out: asyncio.Queue[Message] = asyncio.Queue()
        self.takes = asyncio.Event()
        self.takes.set()
        self.connection = Connection(rooms, scope, self._in.get, self._send, JSON)

    def _write(self, message: Message) -> bool:
        if taken := self.takes.is_set():
            self._out.put_nowait(message)
        return taken

    async def _send(self, message: Message) -> None:
        if farewell := message.get("farewell"):
            self._out.put_nowait(farewell)
        self._out.put_nowait(message)
        if message["type"] == "websocket.close":
            self.leave(message["code"])
        else:
            await self.takes.wait()

    def leave(self, code: int = 1005) -> None:
        self._in.put_nowait({"type": "websocket.disconnect", "code": code})

    def send(self, *frames: object) -> None:
        for frame in frames:
            self._in.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})

    async def receive(self) -> dict[str, Any]:
        """A frame; its code, when it is closed."""
        async with asyncio.timeout(5):
            message = await self._out.get()
        if message["type"] == "websocket.close":
            return {"t": "closed", "code": message["code"], "reason": message["reason"]}
        return dict(json.loads(message["text"]))

    async def until(self, kind: str) -> list[dict[str, Any]]:
        frames = [await self.receive()]
        while frames[-1]["t"] != kind:
            frames.append(await self.receive())
        return frames

    async def connect(self) -> None:
        self.send({"t": "connect", "token": "good"})
        assert (await self.receive())["t"] == "welcome"


@asynccontextmanager
async def wired(log: EventLog, **settings: Any) -> AsyncIterator[Wire]:
    wire = Wire(log, **settings)
    running = asyncio.create_task(wire.connection.run())
    try:
        yield wire
    finally:
        wire.takes.set()
        wire.leave()
        async with asyncio.timeout(5):
            await running
