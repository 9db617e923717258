"""One operation of the document, from its handler: signature, docstring, scope and what it declares in `opt`."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from litestar import Response
from litestar.handlers import HTTPRouteHandler
from litestar.typing import FieldDefinition

from ai_agent.api.acting import reads_owned
from ai_agent.api.answers import JSON
from ai_agent.api.guards import SCOPE
from ai_agent.api.openapi import parameters
from ai_agent.api.openapi.examples import EXAMPLES, STREAM
from ai_agent.api.openapi.responses import LIMITS, error_reference, headers
from ai_agent.api.openapi.schemas import REFERENCE, Schemas
from ai_agent.api.rate_limits import RATE_LIMITS
from ai_agent.domain.pages import Page
from ai_agent.domain.resources import Resource

EVENT_STREAM = "text/event-stream"

_SUCCESS = {
    200: "What was asked for",
    201: "Created",
    202: "Accepted: it goes on behind this answer",
    204: "Done; there is nothing to say",
}


SECURITY = {
    "ApiKeyAuth": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Bearer sk-…`: an API key, made with `ai-agent keys create`",
    },
    "JWTAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A JSON Web Token"},
}


class Answered(NamedTuple):
    """What is answered: the type of the body, and how it is written."""

    kind: Any
    media_type: str = JSON


class Operation:
    def __init__(self, method: str, path: str, handler: HTTPRouteHandler, expected: Any):
        self.method = method
        self.path = path
        self.tag = handler.resolve_tags()[0]
        self.id = _camel_case(handler.fn.__name__)
        self._handler = handler
        self._ids = _fields(handler, expected.expected_path_params)
        self._query = _fields(handler, expected.expected_query_params)
        self._own_headers = _fields(handler, expected.expected_header_params)
        body = handler.parsed_data_field
        self._body = parameters.given(body) if body else None
        self._needs_body = body is not None and not body.is_optional
        self._answers = _answers(handler)
        self._streams = handler.opt.get("streams", False)

    @property
    def kinds(self) -> list[Any]:
        """The types whose schemas it needs."""
        fields = [*self._ids.values(), *self._query.values(), *self._own_headers.values()]
        bodies = [self._body, *(answered.kind for answered in self._answers.values())]
        return [*map(parameters.given, fields), *(kind for kind in bodies if kind is not None)]

    def described(self, schemas: Schemas) -> dict[str, Any]:
        summary, *paragraphs = inspect.cleandoc(self._handler.fn.__doc__ or "").split("\n\n")
        described: dict[str, Any] = {
            "operationId": self.id,
            "tags": [self.tag],
            "summary": summary,
            "description": "\n\n".join([" ".join(text.split()) for text in paragraphs] + self._needs()),
            "parameters": list(self._parameters(schemas)),
        }
        if self._body is not None:
            described["requestBody"] = {
                "required": self._needs_body,
                "content": _content(Answered(self._body), schemas),
            }
        responses = self._responses(schemas) | {status: error_reference(status) for status in self._errors()}
        described["responses"] = {str(status): responses[status] for status in sorted(responses)}
        return described | {"security": self._security()}

    @property
    def _scope(self) -> str | None:
        return self._handler.opt.get(SCOPE)

    @property
    def _limited(self) -> bool:
        return self._handler.opt.get(RATE_LIMITS, ()) is not None

    @property
    def _resource(self) -> bool:
        """Whether it is about one resource, which has an entity tag."""
        return any(_is(answered.kind, Resource) for answered in self._answers.values())

    @property
    def _conditional(self) -> bool:
        deletes_one = self.method == "DELETE" and self._body is None and self._handler.opt.get("conditional", True)
        return deletes_one or (self.method in ("PUT", "PATCH") and self._resource)

    def _security(self) -> list[dict[str, list[str]]]:
        """Either of the schemes, with the scope as OpenAPI 3.1 has it: a role's name."""
        if self._scope is None:
            return []
        return [{scheme: [self._scope] if self._scope else []} for scheme in SECURITY]

    def _needs(self) -> list[str]:
        if self._scope == "":
            return ["Needs credentials, whatever their scopes."]
        return [f"Needs the scope `{self._scope}`."] if self._scope else []

    def _parameters(self, schemas: Schemas) -> Iterator[dict[str, Any]]:
        for name, field in self._ids.items():
            yield parameters.in_path(name, field, schemas)
        for name, field in self._query.items():
            yield parameters.optional(name, "query", field, self.id, schemas)
        for name, field in self._own_headers.items():
            yield parameters.optional(name, "header", field, self.id, schemas)
        if reads_owned(self.method, self._handler.opt):
            yield parameters.reference("OwnerId")
        if self.method == "POST":
            yield parameters.reference("IdempotencyKey")
        if 200 in self._answers and 202 in self._answers:
            yield parameters.reference("Prefer")
        if self._conditional:
            yield parameters.reference("IfMatch")
        if self.method == "GET" and self._resource:
            yield parameters.reference("IfNoneMatch")

    def _responses(self, schemas: Schemas) -> dict[int, dict[str, Any]]:
        responses = {status: self._response(status, answered, schemas) for status, answered in self._answers.items()}
        if self.method == "GET" and self._resource:
            responses[304] = {"description": "Not changed since", "headers": headers("X-Correlation-ID", "ETag")}
        return responses

    def _response(self, status: int, answered: Answered, schemas: Schemas) -> dict[str, Any]:
        names = ["X-Correlation-ID", *(LIMITS if self._limited else ())]
        if _is(answered.kind, Resource):
            names.append("ETag")
        if _is(answered.kind, Page):
            names.append("Link")
        if self.method == "POST" and self._handler.opt.get("idempotency") != "once":
            names.append("Idempotency-Replayed")
        if status == 202 and 200 in self._answers:
            names.append("Location")
        content = _content(answered, schemas)
        if self._streams and status == 200:
            names.append("Content-Location")
            content = content | _EVENTS
        response = {"description": _SUCCESS[status], "headers": headers(*names)}
        return response | ({"content": content} if content else {})

    def _errors(self) -> set[int]:
        """What can go wrong: told by the method, the path, the body and the scope, or declared by the handler."""
        statuses = {422, 500, *self._handler.opt.get("statuses", ())}
        if self._scope is not None:
            statuses |= {401, 503}
        if self._scope is not None or self._limited:
            statuses.add(429)
        if self._scope:
            statuses.add(403)
        if self._ids:
            statuses.add(404)
        if self.method == "POST":
            statuses |= {400, 409}
        if self._body is not None:
            statuses |= {400, 413, 415}
        if self._conditional:
            statuses.add(412)
        return statuses


_EVENTS = {
    EVENT_STREAM: {
        # The format is a text; tools that understand it compare each of its events.
        "schema": {
            "anyOf": [
                {
                    "type": "string",
                    "description": "The last event is `execution.completed`, `execution.failed` or "
                    "`execution.cancelled`; a stream that ends without one was cut off.",
                },
                {"$ref": REFERENCE.format(name="ServerSentEvent")},
            ]
        },
        "example": STREAM,
    }
}


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)


def _fields(handler: HTTPRouteHandler, expected: Any) -> dict[str, FieldDefinition]:
    """Parameters by the client's names, in the order of the handler's signature: Litestar keeps them in a set."""
    aliases = {parameter.field_name: parameter.field_alias for parameter in expected}
    fields = handler.parsed_fn_signature.parameters.items()
    return {aliases[name]: field for name, field in fields if name in aliases}


def _is(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _answers(handler: HTTPRouteHandler) -> dict[int, Answered]:
    """What is answered, by status: as the handler's annotation says, or as it declares in `responses`."""
    kind: Any = handler.parsed_return_field.annotation
    if _is(get_origin(kind), Response):
        (kind,) = get_args(kind)
    declared = {
        status: Answered(spec.data_container, JSON if spec.media_type == JSON else str(spec.media_type))
        for status, spec in (handler.responses or {}).items()
    }
    return {handler.status_code: Answered(None if kind in (object, type(None)) else kind)} | declared


def _content(answered: Answered, schemas: Schemas) -> dict[str, Any]:
    if answered.kind is None:
        return {}
    schema, shown = schemas.of(answered.kind), example(answered.kind)
    if answered.media_type == JSON:
        return {JSON: {"schema": schema, "example": shown}}
    # Objects in a row are a text; tools that understand the format compare each object.
    rows = {
        "schema": {"anyOf": [{"type": "string", "description": "One JSON object a line"}, schema]},
        "example": msgspec.json.encode(shown).decode() + "\n",
    }
    # Generated clients know plain text, and not every format of rows.
    return {answered.media_type: rows, "text/plain": rows}


def example(kind: Any) -> Any:
    """The example of a Struct, or one made of those of its items. Raises KeyError for a Struct without one."""
    if get_origin(kind) in (list, Sequence):
        return [example(get_args(kind)[0])]
    if get_args(kind):
        return example(get_args(kind)[0])
    if issubclass(kind, Page):
        (items,) = [field.type for field in msgspec.structs.fields(kind) if field.name == "items"]
        return {"items": example(items), "next_cursor": None, "has_more": False, "total": None}
    return EXAMPLES[kind]
