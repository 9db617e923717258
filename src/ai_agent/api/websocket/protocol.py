"""The codecs: frames to messages of a socket and back, as text in JSON and as bytes in MessagePack."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, get_args

import msgspec

from ai_agent.api.body import as_json
from ai_agent.api.websocket.errors import BadFrame, FrameError, Unsupported
from ai_agent.domain.errors import MalformedRequest
from ai_agent.domain.events import EventFrame
from ai_agent.domain.fields import packed_json, to_json
from ai_agent.domain.frames import (
    COMMAND_BURST,
    JSON_PROTOCOL,
    MSGPACK_PROTOCOL,
    Bye,
    ClientFrame,
    CloseCode,
    CommandId,
)
from ai_agent.domain.validation import field_error, field_errors

Message = dict[str, Any]
"""What an ASGI server is given to send, or has received."""

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Write = Callable[[Message], bool]
"""Writes a message at once, and says so; false when it would have to wait, or cannot be written at all."""

WRITE = "ai_agent.write"
"""The extension of a socket's scope that is a `Write`. Source: the ASGI specification, Extensions."""

KINDS: dict[object, type[msgspec.Struct]] = {frame.__struct_config__.tag: frame for frame in get_args(ClientFrame)}

_one = msgspec.json.Decoder(ClientFrame)
_many = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()


class WrongCodec(Exception):
    """Text where bytes were agreed on, or the other way round."""


class Codec(Protocol):
    subprotocol: str

    def received(self, message: Message) -> bytes:
        """What a client has sent, as JSON. Raises WrongCodec, BadFrame."""

    def frame(self, frame: msgspec.Struct) -> Message: ...

    def event(self, event: EventFrame) -> Message:
        """Encoded once for everybody, and one message for all, which a server may keep more in."""

    def event_behind(self, event: EventFrame, prev: int) -> Message:
        """With the number of the last event before it that this client was shown."""


class Json:
    subprotocol = JSON_PROTOCOL

    def received(self, message: Message) -> bytes:
        text: str | None = message.get("text")
        if text is None:
            raise WrongCodec
        return text.encode()

    def frame(self, frame: msgspec.Struct) -> Message:
        return {"type": "websocket.send", "text": msgspec.json.encode(frame).decode()}

    def event(self, event: EventFrame) -> Message:
        if (message := event.messages.get(JSON_PROTOCOL)) is None:
            message = event.messages[JSON_PROTOCOL] = {"type": "websocket.send", "text": event.text}
        return message

    def event_behind(self, event: EventFrame, prev: int) -> Message:
        return {"type": "websocket.send", "text": f'{event.text[:-1]},"prev":{prev}}}'}


class Msgpack:
    subprotocol = MSGPACK_PROTOCOL

    def received(self, message: Message) -> bytes:
        data: bytes | None = message.get("bytes")
        if data is None:
            raise WrongCodec
        try:
            return as_json(data)
        except MalformedRequest as error:
            raise BadFrame(error.message) from None

    def frame(self, frame: msgspec.Struct) -> Message:
        # By way of JSON, so that ids and times are the same strings in both.
        return {"type": "websocket.send", "bytes": packed_json(bytes(to_json(frame)))}

    def event(self, event: EventFrame) -> Message:
        if (message := event.messages.get(MSGPACK_PROTOCOL)) is None:
            message = event.messages[MSGPACK_PROTOCOL] = {"type": "websocket.send", "bytes": event.msgpack}
        return message

    def event_behind(self, event: EventFrame, prev: int) -> Message:
        # A map of up to 15 pairs begins with one byte, 0x80 + their number. Source: the MessagePack specification.
        head = bytes([event.msgpack[0] + 1])
        return {
            "type": "websocket.send",
            "bytes": b"%b%b%b%b" % (head, event.msgpack[1:], _PREV, msgspec.msgpack.encode(prev)),
        }


_PREV = msgspec.msgpack.encode("prev")
JSON, MSGPACK = Json(), Msgpack()


def negotiated(offered: Sequence[str]) -> Codec | None:
    """The client's first choice of those that we speak, JSON where it offers none; None where we speak none of them."""
    if not offered:
        return JSON
    known: dict[str, Codec] = {codec.subprotocol: codec for codec in (JSON, MSGPACK)}
    return next((known[name] for name in offered if name in known), None)


def farewell(code: CloseCode, after_ms: int | None = None) -> Bye:
    wait = msgspec.UNSET if after_ms is None else after_ms
    return Bye(code=code, reason=code.reason, reconnect=code.reconnect, after_ms=wait)


def closing(code: CloseCode) -> Message:
    return {"type": "websocket.close", "code": int(code), "reason": code.reason}


def decode(data: bytes, *, batch: bool) -> Iterator[ClientFrame | FrameError]:
    """The frames of a message, or what is wrong with each. `batch` says whether they may come in an array."""
    if not data.lstrip(b" \t\r\n").startswith(b"["):
        yield _decoded(data)
        return
    try:
        parts = _many.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        parts, fault = [], f"The frame is not JSON: {error}"
    else:
        fault = f"An array holds up to {COMMAND_BURST} frames" if len(parts) > COMMAND_BURST else ""
    if not batch:
        fault = "An array of frames needs the capability batch"
    if fault:
        yield BadFrame(fault)
    else:
        yield from map(_decoded, parts)


def _decoded(data: bytes | msgspec.Raw) -> ClientFrame | FrameError:
    try:
        frame: ClientFrame = _one.decode(data)
    except msgspec.ValidationError as error:
        return _refused(data, error)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return BadFrame(f"The frame cannot be decoded: {error}")
    return frame


def _refused(data: bytes | msgspec.Raw, error: msgspec.ValidationError) -> FrameError:
    try:
        value: Any = _any.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as broken:  # Behind the first wrong type.
        return BadFrame(f"The frame cannot be decoded: {broken}")
    if not isinstance(value, dict):
        return BadFrame("A frame is a map")
    kind, frame_id = value.pop("t", None), _id_of(value)
    if isinstance(kind, str) and kind not in KINDS:
        return Unsupported(f"There are no frames {kind[:50]!r}", field="t", frame_id=frame_id)
    if not isinstance(kind, str):
        return BadFrame("Is required, and a string", field="t", frame_id=frame_id)
    fault = next(field_errors(value, KINDS[kind]), field_error(error))
    return BadFrame(fault.message, field=fault.field, frame_id=frame_id)


def _id_of(value: dict[str, Any]) -> int | None:
    try:
        return msgspec.convert(value.get("id"), CommandId)
    except msgspec.ValidationError:
        return None
