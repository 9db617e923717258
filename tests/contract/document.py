"""The checked-in OpenAPI document, and what it says of a real answer."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import msgspec
from httplint import HttpResponseLinter
from httplint.field.parsers.location import LOCATION_UNDEFINED
from httplint.note import Note, levels

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_bytes())

Operation = dict[str, Any]

_FAULTS = {levels.BAD, levels.WARN}


def operations() -> list[tuple[str, str, Operation]]:
    return [
        (method.upper(), path, operation)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    ]


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to, or the node itself."""
    target: dict[str, Any] = DOCUMENT
    if "$ref" not in node:
        return node
    for name in node["$ref"].removeprefix("#/").split("/"):
        target = target[name]
    return target


def faults(schema: dict[str, Any], value: object) -> list[str]:
    """What is wrong with a value, in the words of the schema."""
    errors = _validator(json.dumps(schema, sort_keys=True)).iter_errors(value)
    return [f"{list(error.instance_path)}: {error.message[:300]}" for error in errors]


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    whole = json.loads(schema) | {"components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def assert_documented(response: httpx.Response) -> None:
    """Fails for an answer that the document does not know: its status, its media type, or its body.

    And for headers that httplint finds at fault.
    """
    operation = _operation(response.request.method, response.request.url.path)
    _assert_well_formed(response, operation)
    if operation is None or response.status_code == 405:
        return
    called = f"{operation['operationId']} → {response.status_code}"
    documented = operation["responses"].get(str(response.status_code))
    assert documented is not None, f"{called} is not documented"
    content = resolved(documented).get("content")
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if content is None:
        assert not media_type, f"{called}: nothing is documented, and {media_type} answered"
        return
    known = "application/json" if media_type == "application/x-msgpack" else media_type
    assert known in content, f"{called}: {media_type} is not documented"
    if known in ("application/json", "application/problem+json"):
        response.read()
        decode: Any = msgspec.msgpack.decode if known != media_type else msgspec.json.decode
        wrong = faults(content[known]["schema"], decode(response.content))
        assert not wrong, f"{called}: {wrong}"


_linted: set[tuple[str, int, frozenset[str]]] = set()


def _assert_well_formed(response: httpx.Response, operation: Operation | None) -> None:
    """Each operation's answers once, of each status and with each set of headers."""
    called = f"{response.request.method} {operation['operationId'] if operation else response.request.url.path}"
    kind = (called, response.status_code, frozenset(response.headers))
    if kind in _linted:
        return
    _linted.add(kind)
    linter = HttpResponseLinter()
    linter.process_response_topline(b"HTTP/1.1", b"%d" % response.status_code, response.reason_phrase.encode())
    linter.process_headers(response.headers.raw)
    bad = [f"{note.summary} ({note.subject})" for note in linter.notes if _is_fault(note, response.status_code)]
    assert not bad, f"{called} → {response.status_code}: {bad}"


def _is_fault(note: Note, status: int) -> bool:
    # Where what was accepted can be watched is told in `Location`, as most do that accept work.
    accepted = status == 202 and isinstance(note, LOCATION_UNDEFINED)
    return note.level in _FAULTS and not accepted


def _operation(method: str, path: str) -> Operation | None:
    """The operation of a request; literal parts of a path win over parameters."""
    for template in sorted(DOCUMENT["paths"], key=lambda template: template.count("{")):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern + "/?", path):
            found: Operation | None = DOCUMENT["paths"][template].get(method.lower())
            return found
    return None
