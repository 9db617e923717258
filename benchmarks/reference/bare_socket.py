"""Bare ASGI that sends what one socket says to all others: the loop that every fan-out has, and nothing else.

Who connects to `/pub` speaks, everybody else listens.
"""

from typing import Any

_listeners: set[Any] = set()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    speaks = scope["path"] == "/pub"
    if not speaks:
        _listeners.add(send)
    while (message := await receive())["type"] != "websocket.disconnect":
        if speaks:
            told = {"type": "websocket.send", "text": message["text"]}
            for listener in list(_listeners):
                await listener(told)
    _listeners.discard(send)
