"""`/ws`, `/ws/session/{session_id}` and `/ws/health`."""

from typing import Any

import msgspec
from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.params import FromPath

from ai_agent.api.middleware import RAW
from ai_agent.api.websocket.connection import Connection, Rooms
from ai_agent.api.websocket.errors import Unsupported, error_frame
from ai_agent.api.websocket.protocol import JSON, Codec, Receive, Send, closing, farewell, negotiated
from ai_agent.domain.channels import ChannelKind
from ai_agent.domain.frames import JSON_PROTOCOL, MSGPACK_PROTOCOL, CloseCode
from ai_agent.services.health import HealthService

Socket = WebSocket[Any, Any, Any]


class Health(msgspec.Struct):
    status: str = "healthy"
    degraded: list[str] = []


@websocket("/ws")
async def open_socket(socket: Socket, sockets: NamedDependency[Rooms]) -> None:
    await _converse(socket, sockets, None)


@websocket("/ws/session/{session_id:str}")
async def open_session_socket(socket: Socket, session_id: FromPath[str], sockets: NamedDependency[Rooms]) -> None:
    await _converse(socket, sockets, f"{ChannelKind.SESSION}:{session_id}")


@websocket("/ws/health")
async def tell_health(socket: Socket, health: NamedDependency[HealthService]) -> None:
    receive, send = _raw(socket)
    codec = await _accepted(socket, receive, send)
    if codec is not None:
        await send(codec.frame(Health(degraded=list((await health.look()).degraded))))
        await send(closing(CloseCode.NORMAL))


async def _converse(socket: Socket, rooms: Rooms, joins: str | None) -> None:
    receive, send = _raw(socket)
    codec = await _accepted(socket, receive, send)
    if codec is not None:
        connection = Connection(rooms, socket.scope, receive, send, codec)
        connection.joins = joins
        await connection.run()


def _raw(socket: Socket) -> tuple[Receive, Send]:
    """The server's own: Litestar wraps each message three times."""
    raw: tuple[Receive, Send] = socket.scope[RAW]  # type: ignore[literal-required]  # ours
    return raw


async def _accepted(socket: Socket, receive: Receive, send: Send) -> Codec | None:
    """Accepted in any case, so that a browser can see why it is closed."""
    await receive()
    offered = socket.scope["subprotocols"]
    codec = negotiated(offered)
    await send({"type": "websocket.accept", "subprotocol": codec.subprotocol if codec and offered else None})
    if codec is None:
        error = Unsupported(f"Offer {JSON_PROTOCOL} or {MSGPACK_PROTOCOL}", field="subprotocol")
        await send(JSON.frame(error_frame(error, socket.scope["correlation_id"])))  # type: ignore[typeddict-item]  # ours
        await send(JSON.frame(farewell(CloseCode.SUBPROTOCOL)))
        await send(closing(CloseCode.SUBPROTOCOL))
    return codec


ROUTES = [open_socket, open_session_socket, tell_health]
