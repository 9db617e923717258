"""Parameters of operations: those of the path and query from a handler's signature, and those that many take."""

from types import UnionType
from typing import Any, Union, get_args, get_origin

from litestar.typing import FieldDefinition

from ai_agent.api.acting import MAX_LENGTH, OWNER
from ai_agent.api.openapi.examples import AGENT, EXECUTION, KEY, QUESTION, SESSION
from ai_agent.api.openapi.glossary import meaning
from ai_agent.api.openapi.schemas import Schema, Schemas

SHARED = {
    "OwnerId": {
        "name": OWNER,
        "in": "query",
        "description": "With the scope `admin`: read what is this owner's, and not the caller's own",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH},
        "example": "admin",
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A request that is repeated with the same key within 24 hours gets the first answer again",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        "example": "order-1001",
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "Do it only when the resource still is as this `ETag` says, else answer 412",
        "schema": {"type": "string"},
        "example": "*",
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "Answer 304, without a body, when the resource still is as this `ETag` says",
        "schema": {"type": "string"},
        "example": '"2"',
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async` answers 202 with the execution at once, instead of waiting for its end",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
}

_IDS = {"session_id": SESSION, "message_id": QUESTION, "agent_id": AGENT, "execution_id": EXECUTION, "key_id": KEY}

_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_items": "minItems",
    "max_items": "maxItems",
    "pattern": "pattern",
}


def reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/parameters/{name}"}


def in_path(name: str, field: FieldDefinition, schemas: Schemas) -> dict[str, Any]:
    example = {"example": _IDS[name]} if name in _IDS else {}
    described = {"name": name, "in": "path", "required": True, "description": meaning(name, "path")}
    return described | {"schema": schemas.of(field.annotation)} | example


def optional(name: str, where: str, field: FieldDefinition, operation_id: str, schemas: Schemas) -> dict[str, Any]:
    """A parameter of the query or a header."""
    described = {"name": name, "in": where, "description": meaning(name, operation_id)}
    required = {"required": True} if field.is_required else {}
    return described | required | {"schema": schemas.of(given(field)) | _bounds(field)}


def given(field: FieldDefinition) -> Any:
    """The type of a parameter that is there: its absence is no value."""
    options = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else ()
    present = [option for option in options if option is not type(None)]
    return present[0] if len(present) == 1 else field.annotation


def _bounds(field: FieldDefinition) -> Schema:
    marker = field.kwarg_definition
    bounds = {name: getattr(marker, ours, None) for ours, name in _BOUNDS.items()}
    default = {} if field.default is None or field.is_required else {"default": field.default}
    return {name: value for name, value in bounds.items() if value is not None} | default
