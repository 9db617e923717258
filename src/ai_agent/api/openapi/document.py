"""The OpenAPI 3.1 document: read from the application's operations, so that it says what they do.

A generator of our own, because Litestar's would have to be corrected nearly everywhere: it knows nothing of bodies that
a DTO decodes, of JSON that stays undecoded, of unknown fields that are refused, and of our errors. msgspec makes the
schemas.
"""

from pathlib import Path
from typing import Any

from litestar import Litestar
from litestar.routes import HTTPRoute

from ai_agent.api.errors import ErrorBody, Problem
from ai_agent.api.openapi.operations import SECURITY, Operation
from ai_agent.api.openapi.parameters import SHARED
from ai_agent.api.openapi.responses import error_components, header_components
from ai_agent.api.openapi.schemas import Schemas

PREFIX = "/api/v1"

TAGS = {
    "Sessions": "Conversations.",
    "Messages": "What is said in a session: a tree, each message follows its parent.",
    "Agents": "A model, its instructions and its tools, under a name.",
    "Executions": "Runs of agents, and their events.",
    "Webhooks": "What is sent to `callback_url` when an execution has ended, signed as Standard Webhooks has it.",
    "Notifications": "What applications tell users and topics, and what became of it.",
    "Tools": "What agents may do: the server's own tools, HTTP requests, MCP servers' tools, and those of the client.",
    "MCP servers": "Where tools come from that others have built: registered, watched, and synced.",
    "Rate limits": "How much is allowed, and what is left of it.",
    "Administration": "What belongs to all owners: API keys, sockets, queues, and the audit log.",
    "Auth": "Tokens in place of an API key, and who the caller is.",
    "Health": "Whether the server lives, and whether it should be sent requests.",
}


def openapi(app: Litestar) -> dict[str, Any]:
    """The document of an application."""
    operations = _operations(app)
    schemas = Schemas([kind for operation in operations for kind in operation.kinds] + [ErrorBody, Problem])
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = operation.described(schemas)
    return {
        "openapi": "3.1.0",
        "info": _info(),
        "servers": [{"url": "/", "description": "This server"}],
        "security": [{name: []} for name in SECURITY],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": error_components(),
            "parameters": SHARED,
            "headers": header_components(),
            "securitySchemes": SECURITY,
        },
    }


def _operations(app: Litestar) -> list[Operation]:
    found = [
        Operation(method, route.path_format, handler, parameters)
        for route in app.routes
        if isinstance(route, HTTPRoute) and route.path.startswith(PREFIX)
        for method, (handler, parameters) in route.route_handler_map.items()
        if method != "OPTIONS"
    ]
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    tags = list(TAGS)
    return sorted(found, key=lambda o: (tags.index(o.tag), o.path, methods.index(o.method)))


def _info() -> dict[str, Any]:
    return {
        "title": "AI Agent API",
        "version": "1.0.0",
        "summary": "Conversations, agents that really run, and every event of a run in order.",
        "description": (Path(__file__).parent / "description.md").read_text(encoding="utf-8"),
        "license": {"name": "MIT", "identifier": "MIT"},
    }
