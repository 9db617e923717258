"""The messages of the protocol: one for each frame, and one for each type of event."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import msgspec

from ai_agent.api.asyncapi.examples import DATA_EXAMPLES, EXAMPLES, event_example
from ai_agent.api.asyncapi.glossary import meaning
from ai_agent.api.openapi.schemas import REFERENCE, Schema, Schemas, event_name
from ai_agent.domain.events import DATA, EventFrame, EventType
from ai_agent.domain.fields import JsonValue
from ai_agent.domain.frames import SERVER_FRAMES, ClientFrame

COMMANDS_TAG, ANSWERS_TAG, EVENTS_TAG = "Commands", "Answers", "Events"

APPLICATION_EVENT = "ApplicationEvent"
HEALTHY = "Healthy"

_PREV = {
    "type": "integer",
    "description": "The event before this one that you may see, where events between are hidden from you; "
    "absent when it is `seq - 1`",
}

ANSWERS = {
    "Connect": ("Welcome", "ErrorFrame"),
    "Subscribe": ("Subscribed", "ErrorFrame"),
    "Unsubscribe": ("Unsubscribed", "ErrorFrame"),
    "Ping": ("ServerPong",),
    **dict.fromkeys(("Ack", "Nack", "History", "Call", "Auth", "Presence"), ("Reply", "ErrorFrame")),
}
"""What may come back with a command's `id`."""


class Message(NamedTuple):
    """A frame: what `t`, or the type of an event, names on the wire; its schema's name; an example of it."""

    name: str
    title: str
    tag: str
    summary: str
    example: dict[str, Any]

    @property
    def reference(self) -> str:
        return f"#/components/messages/{self.title}"

    def described(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "tags": [{"name": self.tag}],
            "payload": {"$ref": REFERENCE.format(name=self.title)},
            "examples": [{"name": self.title, "payload": self.example}],
        }
        if "id" in self.example:
            message["correlationId"] = {"$ref": "#/components/correlationIds/command"}
        return message


def message_schemas() -> dict[str, Schema]:
    """The schemas of all messages, by their titles, and of what they are made of."""
    frames = [*get_args(ClientFrame), *SERVER_FRAMES]
    components = Schemas(frames, meaning, DATA).components
    # Every type of event is a message of its own here.
    events = {name: _with_prev(components[name]) for name in map(event_name, DATA)}
    del components[EventFrame.__name__], components["ServerSentEvent"]
    others = {APPLICATION_EVENT: _application_event(events[event_name(EventType.TOKEN)]), HEALTHY: _HEALTHY}
    return dict(sorted((components | events | others).items()))


def _with_prev(event: Schema) -> Schema:
    return event | {"properties": event["properties"] | {"prev": _PREV}}


def _application_event(event: Schema) -> Schema:
    own = {
        "type": {
            "type": "string",
            "description": "Whatever the publisher calls it",
            "not": {"enum": [kind.value for kind in DATA]},
        },
        "data": msgspec.json.schema(JsonValue) | {"description": "Whatever the publisher has to say"},
    }
    return event | {"title": APPLICATION_EVENT, "properties": event["properties"] | own}


_HEALTHY: Schema = {
    "title": HEALTHY,
    "description": "Sockets are served.",
    "type": "object",
    "properties": {
        "status": {"const": "healthy", "type": "string", "description": "Always `healthy`"},
        "degraded": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What is away, although sockets are served",
        },
    },
    "required": ["status", "degraded"],
}


def _frame(kind: type[msgspec.Struct], tag: str) -> Message:
    return Message(str(kind.__struct_config__.tag), kind.__name__, tag, _summary(kind), EXAMPLES[kind])


def _events() -> Iterator[Message]:
    for kind, data in DATA.items():
        shown = event_example(kind, DATA_EXAMPLES[kind])
        yield Message(kind.value, event_name(kind), EVENTS_TAG, _summary(data), shown)
    said = event_example(EventType.APPLICATION, {"headline": "Cherries bloom"}) | {"ch": "topic:news"}
    yield Message("event", APPLICATION_EVENT, EVENTS_TAG, "What an application tells, in a topic.", said)


def _summary(kind: type) -> str:
    """The first line of its docstring."""
    return inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]


COMMANDS = [_frame(kind, COMMANDS_TAG) for kind in get_args(ClientFrame)]
TOLD = [*(_frame(kind, ANSWERS_TAG) for kind in SERVER_FRAMES if kind is not EventFrame), *_events()]
HEALTH = Message("health", HEALTHY, ANSWERS_TAG, "Sockets are served.", {"status": "healthy", "degraded": []})
