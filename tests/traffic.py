"""What is said on a WebSocket, recorded and compared with the AsyncAPI document, frame by frame."""

import json
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import jsonschema_rs
import msgspec

ASYNCAPI: dict[str, Any] = json.loads((Path(__file__).parents[1] / "docs" / "asyncapi.json").read_bytes())

Frame = dict[str, Any]
Direction = Literal["sent", "received"]
"""By the client."""


class Socket(Protocol):
    """A client's connection, as the library `websockets` has it."""

    async def send(self, message: str | bytes, /) -> None: ...

    async def recv(self) -> str | bytes: ...


class Recorded:
    """A client's connection whose frames, both ways, are remembered and must be as the document says.

    What a client says wrong on purpose is sent with `send_raw`. A batch is returned as the frames it is made of.
    """

    def __init__(self, socket: Socket, *, packed: bool = False):
        self._socket, self._packed = socket, packed
        self.frames: list[tuple[Direction, Frame]] = []
        self._waiting: list[Frame] = []

    async def send(self, frame: Frame) -> None:
        self._note("sent", frame)
        encoded = msgspec.msgpack.encode(frame) if self._packed else msgspec.json.encode(frame).decode()
        await self.send_raw(encoded)

    async def send_raw(self, message: str | bytes) -> None:
        await self._socket.send(message)

    async def receive(self) -> Frame:
        while not self._waiting:
            self._waiting = self._heard(await self._socket.recv())
        return self._waiting.pop(0)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while True:
            yield await self.receive()

    def _heard(self, message: str | bytes) -> list[Frame]:
        assert isinstance(message, bytes) == self._packed, "The subprotocol says how frames are encoded"
        decoded = msgspec.msgpack.decode(message) if isinstance(message, bytes) else msgspec.json.decode(message)
        batch: list[Frame] = decoded if isinstance(decoded, list) else [decoded]
        for frame in batch:
            self._note("received", frame)
        return batch

    def _note(self, direction: Direction, frame: Frame) -> None:
        assert_described(frame, direction)
        self.frames.append((direction, frame))


def assert_described(frame: Frame, direction: Direction) -> None:
    """Fails for a frame that the document does not know, or describes otherwise."""
    title = _titles(direction).get((frame["t"], frame.get("type") if frame["t"] == "event" else None))
    if title is None and frame["t"] == "event":
        title = "ApplicationEvent"
    assert title is not None, f"No such frame is {direction}: {frame}"
    wrong = faults(title, frame)
    assert not wrong, f"{title} {direction}: {wrong}"


def faults(title: str, frame: Any) -> list[str]:
    """What is wrong with a frame, in the words of the schema of that name."""
    return [f"{list(error.instance_path)}: {error.message[:300]}" for error in _validator(title).iter_errors(frame)]


@cache
def _titles(direction: Direction) -> dict[tuple[str, str | None], str]:
    """The names of the schemas by `t` and, of events, `type`."""
    return {_wire_name(title): title for title in _messages(direction)}


def _messages(direction: Direction) -> Iterator[str]:
    action = "receive" if direction == "sent" else "send"
    for operation in ASYNCAPI["operations"].values():
        if operation["action"] == action and operation["channel"]["$ref"] == "#/channels/all":
            yield from (message["$ref"].rpartition("/")[2] for message in operation["messages"])


def _wire_name(title: str) -> tuple[str, str | None]:
    (frame,) = ASYNCAPI["components"]["schemas"][title]["properties"]["t"]["enum"]
    return frame, ASYNCAPI["components"]["messages"][title]["name"] if frame == "event" else None


@cache
def _validator(title: str) -> jsonschema_rs.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{title}", "components": ASYNCAPI["components"]}
    # Of draft 7, which AsyncAPI means, the newer one knows all that is used here, and ids besides.
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
