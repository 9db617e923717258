"""What is said on a WebSocket, compared with the AsyncAPI document, frame by frame."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jsonschema_rs

ASYNCAPI: dict[str, Any] = json.loads((Path(__file__).parents[1] / "docs" / "asyncapi.json").read_bytes())

Frame = dict[str, Any]
Direction = Literal["sent", "received"]
"""By the client."""


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
