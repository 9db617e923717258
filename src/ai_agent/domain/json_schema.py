"""JSON Schemas that a client gives for arguments: checked when they are written, and harmless when they are used.

Source: JSON Schema, draft 2020-12.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import JsonObject, depth
from ai_agent.domain.validation import joined

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_BYTES = 64 * 1024
SCHEMA_DEPTH = 32
EXPANDED_NODES = 10_000
"""Most nodes of a schema with each reference replaced by what it refers to: so much is looked at for one value."""

_REFERENCES = frozenset({"$ref", "$dynamicRef"})

Path = tuple[str | int, ...]


def check_schema(field: str, schema: JsonObject) -> list[FieldError]:
    """A schema of objects, whole in itself, of bounded size. `field` is where it stands in the request."""
    fault = _bounds_fault(schema) or _root_fault(schema) or _reference_fault(schema) or _draft_fault(schema)
    if fault is not None:
        return [FieldError(_at(field, fault[0]), fault[1])]
    if _Expansion(schema).nodes() > EXPANDED_NODES:
        return [FieldError(field, f"Has more than {EXPANDED_NODES} nodes when its references are followed")]
    return []


Fault = tuple[Path, str] | None


def _bounds_fault(schema: JsonObject) -> Fault:
    if depth(schema) > SCHEMA_DEPTH:
        return (), f"Is nested deeper than {SCHEMA_DEPTH} levels"
    if len(msgspec.json.encode(schema)) > SCHEMA_BYTES:
        return (), f"Is longer than {SCHEMA_BYTES} bytes as JSON"
    return None


def _root_fault(schema: JsonObject) -> Fault:
    if schema.get("type") != "object":
        return ("type",), "Must be object: arguments have names"
    if schema.get("$schema", DRAFT) != DRAFT:
        return ("$schema",), f"Must be {DRAFT}, or absent"
    return None


def _reference_fault(schema: JsonObject) -> Fault:
    """Nothing is fetched, and a reference can be followed by whoever reads the schema."""
    for path, name, value in _members(schema, ()):
        if name in _REFERENCES and isinstance(value, str) and not (value == "#" or value.startswith("#/")):
            return (*path, name), "Must point into this schema, such as #/$defs/address"
        if name == "$id" and isinstance(value, str) and path:
            return (*path, name), "Only the schema as a whole may have one"
    return None


def _draft_fault(schema: JsonObject) -> Fault:
    try:
        jsonschema_rs.Draft202012Validator(schema, retriever=_refuse)
    except jsonschema_rs.ValidationError as error:
        return tuple(error.instance_path), error.message
    return None


def _refuse(address: str) -> Any:
    raise ValueError(f"{address} is not fetched")


def _members(node: Any, path: Path) -> Iterator[tuple[Path, str, Any]]:
    """Every member of every object, with the path of the object."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _members(item, (*path, index))
    elif isinstance(node, dict):
        for name, value in node.items():
            yield path, name, value
            yield from _members(value, (*path, name))


class _Expansion:
    """How large a schema becomes when references are followed; one that leads back to where it stands is not."""

    def __init__(self, schema: JsonObject):
        self._schema = schema
        self._known: dict[str, int] = {}

    def nodes(self) -> int:
        self._known["#"] = 0
        return self._size(self._schema)

    def _size(self, node: Any) -> int:
        if isinstance(node, list):
            return 1 + sum(map(self._size, node))
        if not isinstance(node, dict):
            return 1
        followed = sum(self._referred(node[name]) for name in _REFERENCES if isinstance(node.get(name), str))
        return 1 + followed + sum(map(self._size, node.values()))

    def _referred(self, reference: str) -> int:
        if reference not in self._known:
            self._known[reference] = 0
            self._known[reference] = self._size(_target(self._schema, reference))
        return self._known[reference]


def _target(schema: JsonObject, reference: str) -> Any:
    """What a pointer points to; None where it is only a value that looks like one. Source: RFC 6901."""
    node: Any = schema
    try:
        for step in reference.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            node = node[int(name)] if isinstance(node, list) else node[name]
    except (LookupError, ValueError, TypeError):
        return None
    return node


def _at(field: str, path: Path) -> str:
    for step in path:
        field = f"{field}[{step}]" if isinstance(step, int) else joined(field, step)
    return field
