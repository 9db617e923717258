"""A WebSocket server that is scripted: what a real one does rarely, or only around a restart."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection, serve

from ai_agent.domain.frames import JSON_PROTOCOL, MSGPACK_PROTOCOL
from tests.servers import free_port

Frame = dict[str, Any]
EID = "01900000-0000-7000-8000-{:012d}"


class Peer:
    """One connection, as the server sees it. `connect` is what the client has begun with."""

    connect: Frame

    def __init__(self, socket: ServerConnection):
        self._socket = socket
        self._binary = socket.subprotocol == MSGPACK_PROTOCOL

    async def hear(self, kind: str = "") -> Frame:
        """The next frame of the client; with a kind the next of that kind."""
        while True:
            message = await self._socket.recv()
            frame: Frame = json.loads(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
            if kind in ("", frame["t"]):
                return frame

    async def say(self, kind: str, **members: Any) -> None:
        await self.say_raw({"t": kind, **{name.rstrip("_"): value for name, value in members.items()}})

    async def say_raw(self, frame: object) -> None:
        await self._socket.send(msgspec.msgpack.encode(frame) if self._binary else json.dumps(frame))

    async def welcome(self, *resumed: Frame, ping_ms: int = 25_000, pong_ms: int = 10_000) -> None:
        """Hears the client's `connect` and answers it."""
        self.connect = await self.hear("connect")
        limits = {"frame": 65536, "subscriptions": 100, "commands_per_second": 50}
        await self.say(
            "welcome",
            id=self.connect["id"],
            conn="c",
            user="ada",
            node="n",
            heartbeat={"ping_ms": ping_ms, "pong_ms": pong_ms},
            expires_at=None,
            limits=limits,
            resumed=list(resumed),
        )

    async def subscribed(self, seq: int = 0) -> Frame:
        """Hears one subscription and answers it."""
        asked = await self.hear("subscribe")
        await self.say(
            "subscribed", id=asked["id"], ch=asked["ch"], epoch="e", seq=seq, top=seq, floor=1, recovered=True
        )
        return asked

    async def events(self, channel: str, *seqs: int) -> None:
        for seq in seqs:
            eid = EID.format(seq)
            await self.say("event", ch=channel, seq=seq, eid=eid, type="note", ts=1, data={"n": seq})

    async def close(self, code: int) -> None:
        await self._socket.close(code)

    def cut(self) -> None:
        """Without a goodbye."""
        self._socket.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class ScriptedSocket:
    """Each connection is given to the next of the scripts, and stays open until its script has ended."""

    def __init__(self, *scripts: Script):
        self._scripts = list(scripts)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.opened: list[float] = []
        """When each connection was opened."""
        self.failed: list[BaseException] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["ScriptedSocket"]:
        protocols = [JSON_PROTOCOL, MSGPACK_PROTOCOL]
        async with serve(self._play, "127.0.0.1", self.port, subprotocols=protocols, close_timeout=0.1):  # type: ignore[arg-type]  # NewType of str
            yield self
        if self.failed:
            raise self.failed[0]

    async def _play(self, socket: ServerConnection) -> None:
        self.opened.append(asyncio.get_running_loop().time())
        if not self._scripts:
            self.failed.append(AssertionError("one connection more than there are scripts"))
            return
        try:
            await self._scripts.pop(0)(Peer(socket))
        except AssertionError as error:
            self.failed.append(error)


def resumed(channel: str, seq: int, **more: Any) -> Frame:
    return {"ch": channel, "recovered": True, "epoch": "e", "seq": seq, "top": seq, "floor": 1, **more}
