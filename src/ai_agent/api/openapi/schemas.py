"""Structs as schemas: what msgspec says of them, and what it leaves out.

msgspec knows types and bounds. Added here: what undecoded JSON holds, the format of times, descriptions, the union of
events, and that an answer's fields are always there.
"""

import copy
import inspect
import json
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import reduce
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from ai_agent.api.openapi.glossary import meaning
from ai_agent.domain.events import DATA, EventFrame, EventType
from ai_agent.domain.fields import Holds

Schema = dict[str, Any]

_SCALARS = ("string", "integer", "number", "boolean")

REFERENCE = "#/components/schemas/{name}"

OF_RUNS = {kind: data for kind, data in DATA.items() if kind.partition(".")[0] in {"execution", "tool", "approval"}}
"""What an execution's stream tells."""

_SERVER_SENT_EVENT = {
    "title": "ServerSentEvent",
    "description": "One event of a stream, as a reader of `text/event-stream` makes it from the lines.",
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "`<epoch>:<seq>`, for `Last-Event-ID`"},
        "event": {"type": "string", "description": "The type of the event"},
        "data": {
            "type": "string",
            "description": "An EventFrame, as JSON",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": REFERENCE.format(name=EventFrame.__name__)},
        },
    },
    "required": ["id", "event", "data"],
}


def event_name(kind: EventType) -> str:
    """What the component of an event of this type is called."""
    return "".join(word.title() for word in kind.name.split("_")) + "Event"


class Schemas:
    """The schema of each of the `kinds`, and the components that they refer to.

    `describe` says what a field of a Struct means; `told` are the events, with their data.
    """

    def __init__(
        self,
        kinds: Iterable[Any],
        describe: Callable[[str, str], str | None] = meaning,
        told: Mapping[EventType, type[msgspec.Struct]] = OF_RUNS,
    ):
        self._describe = describe
        self._told = told
        structs = _structs_in([*kinds, *told.values()])
        fields = [(struct, field) for struct in structs for field in msgspec.structs.fields(struct)]
        held = [_held(field.type) for _, field in fields]
        every = [*structs, *kinds, *held]
        schemas, self.components = msgspec.json.schema_components(every, ref_template=REFERENCE)
        self._kinds = list(zip(every, map(_honest, every, schemas), strict=True))
        for _, schema in self._kinds:
            _spell_out(schema)
        for struct, field in fields:
            properties = self.components[struct.__name__]["properties"]
            default = properties[field.encode_name].get("default")
            properties[field.encode_name] = self.of(_held(field.type)) | self._described(struct, field, default)
        for struct in structs:
            self._finish(struct)
        self._tell_events_apart()
        for component in self.components.values():
            _spell_out(component)

    def of(self, kind: Any) -> Schema:
        """The schema of a kind that was given at the start."""
        return copy.deepcopy(next(schema for known, schema in self._kinds if known == kind))

    def _finish(self, struct: type[msgspec.Struct]) -> None:
        component = self.components[struct.__name__]
        component["description"] = inspect.cleandoc(component["description"])
        tag = struct.__struct_config__.tag_field
        if tag is not None:
            component["properties"][tag]["description"] = self._describe(tag, struct.__name__)
        if not struct.__struct_config__.forbid_unknown_fields:
            # An answer is written whole; only a request may leave out what has a default.
            fields = msgspec.structs.fields(struct)
            always = [f.encode_name for f in fields if msgspec.UnsetType not in get_args(f.type)]
            component["required"] = always if tag is None else [tag, *always]
        if not component["required"]:
            del component["required"]

    def _described(self, struct: type[msgspec.Struct], field: msgspec.structs.FieldInfo, default: Any) -> Schema:
        """The field's description. Of a request it tells the default, too, which generators take for "always there"."""
        description = self._describe(field.encode_name, struct.__name__)
        if default is not None and struct.__struct_config__.forbid_unknown_fields:
            description = f"{description}. When absent: `{json.dumps(default)}`"
        return {"description": description} if description else {}

    def _tell_events_apart(self) -> None:
        frame = self.components[EventFrame.__name__]
        names = {kind: event_name(kind) for kind in self._told}
        for kind, name in names.items():
            self.components[name] = self._event(name, kind, frame)
        references = {kind.value: REFERENCE.format(name=name) for kind, name in names.items()}
        self.components[EventFrame.__name__] = {
            "title": frame["title"],
            "description": frame["description"],
            "oneOf": [{"$ref": reference} for reference in references.values()],
            "discriminator": {"propertyName": "type", "mapping": references},
        }
        self.components["ServerSentEvent"] = _SERVER_SENT_EVENT

    def _event(self, name: str, kind: EventType, frame: Schema) -> Schema:
        described = {name: {"description": schema["description"]} for name, schema in frame["properties"].items()}
        own = {
            "type": described["type"] | {"type": "string", "const": kind.value},
            "data": described["data"] | self.of(self._told[kind]),
        }
        return frame | {"title": name, "properties": frame["properties"] | own}


def _structs_in(kinds: Iterable[Any]) -> list[type[msgspec.Struct]]:
    """Every Struct that the kinds are made of, in the order in which it is met."""
    found: dict[type[msgspec.Struct], None] = {}
    for kind in kinds:
        _collect(kind, found)
    return list(found)


def _collect(kind: Any, found: dict[type[msgspec.Struct], None]) -> None:
    if isinstance(kind, Holds):
        kind = kind.type
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in found:
        found[kind] = None
        for field in msgspec.structs.fields(kind):
            _collect(field.type, found)
    for part in get_args(kind):
        _collect(part, found)


def _held(kind: Any) -> Any:
    """The type with what its undecoded JSON holds in the place of the JSON."""
    if get_origin(kind) is Annotated:
        return next((held.type for held in kind.__metadata__ if isinstance(held, Holds)), kind)
    if get_origin(kind) in (Union, UnionType):
        return reduce(operator.or_, [_held(option) for option in get_args(kind) if option is not msgspec.UnsetType])
    return kind


def _honest(kind: Any, schema: Schema) -> Schema:
    """The schema with the format of times, which msgspec leaves out."""
    if datetime not in (kind, *get_args(kind)):
        return schema
    if "anyOf" in schema:
        return schema | {"anyOf": [_honest(datetime, s) if s["type"] == "string" else s for s in schema["anyOf"]]}
    return schema | {"format": "date-time"}


def _spell_out(schema: Any) -> None:
    """Says what readers and generators do not take for granted.

    Enums are of strings or integers, a free object may hold anything, and a value or null is one value of two types.
    """
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _spell_out(inner)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("enum"), list):
        schema.setdefault("type", "integer" if isinstance(schema["enum"][0], int) else "string")
    if schema.get("type") == "object" and "properties" not in schema:
        schema.setdefault("additionalProperties", True)
    value, *others = schema.get("anyOf", [{}])
    if others == [{"type": "null"}] and value.get("type") in _SCALARS and "enum" not in value:
        del schema["anyOf"]
        schema.update(value, type=[value["type"], "null"])
