"""Frames to bytes and back, for a client: it skips what it does not know, because servers are newer."""

from collections.abc import Iterator
from typing import Any

import msgspec

from ai_agent.client.events import EventMap
from ai_agent.domain.events import EventFrame
from ai_agent.domain.frames import JSON_PROTOCOL, MSGPACK_PROTOCOL, SERVER_FRAMES, ClientFrame

SUBPROTOCOLS = {"json": JSON_PROTOCOL, "msgpack": MSGPACK_PROTOCOL}

_TYPES = {kind.__struct_config__.tag: EventMap if kind is EventFrame else kind for kind in SERVER_FRAMES}


def encode(frame: ClientFrame, codec: str) -> str | bytes:
    """Text for `json`, bytes for `msgpack`."""
    return msgspec.msgpack.encode(frame) if codec == "msgpack" else msgspec.json.encode(frame).decode()


def decode(data: str | bytes) -> Iterator[object]:
    """The frames of a message, text in JSON and bytes in MessagePack. Raises msgspec.MsgspecError."""
    decoded: Any = msgspec.json.decode(data) if isinstance(data, str) else msgspec.msgpack.decode(data)
    for frame in decoded if isinstance(decoded, list) else [decoded]:
        kind = _TYPES.get(frame.get("t")) if isinstance(frame, dict) else None
        if kind is not None:
            yield msgspec.convert(frame, kind)
