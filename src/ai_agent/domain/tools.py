"""A tool that a model may call: one of the server's own, a request that it sends, or one that the client runs."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import Description, Input, JsonObject, JsonValue, StoredJson, StoredObject, check_metadata
from ai_agent.domain.http_tools import IDEMPOTENT, check_http
from ai_agent.domain.json_schema import check_schema
from ai_agent.domain.pages import Filter, Page
from ai_agent.domain.resources import Resource


class ToolKind(StrEnum):
    """`builtin` runs in the server, which sends the request of an `http` tool; a `client` tool is run by the client.

    An `mcp` tool is one of an MCP server, made by a sync.
    """

    BUILTIN = "builtin"
    HTTP = "http"
    MCP = "mcp"
    CLIENT = "client"


class Builtin(msgspec.Struct, frozen=True):
    """What a model is told of a tool of the server's own."""

    description: str
    schema: JsonObject


def _arguments(properties: JsonObject, **more: Any) -> JsonObject:
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


_ZONE = {"type": "string", "maxLength": 64, "description": "IANA name. Default: UTC"}
_EXPRESSION = {"type": "string", "maxLength": 1000, "description": "As (2 + 3) * 4"}

_QUERY = {"type": "string", "minLength": 2, "maxLength": 200, "description": 'As: word "a phrase" -word, or between'}
_SESSION = {"type": "string", "description": "Only this session"}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": 20, "description": "Default: 10"}

BUILTINS = {
    "current_time": Builtin("Tells the date and the time.", _arguments({"timezone": _ZONE})),
    "calculator": Builtin(
        "Calculates an expression: + - * / // % **, parentheses, sqrt, round, min, max, log, sin, pi and the like.",
        _arguments({"expression": _EXPRESSION}, required=["expression"]),
    ),
    "search_messages": Builtin(
        "Finds messages in all of the user's conversations: those that match best first, then the newest.",
        _arguments({"query": _QUERY, "session_id": _SESSION, "limit": _LIMIT}, required=["query"]),
    ),
}
"""By name. Agents may name them without registering them; a registered one says otherwise how it is to be called."""

# What providers accept, and white space around it, which is taken away as from every name.
ToolName = Annotated[str, Meta(pattern=r"^\s*[a-zA-Z0-9_-]{1,64}\s*$", max_length=255)]


TOOL_SECONDS = 30.0
"""How long a call may take that says nothing else."""


class ToolSpec(msgspec.Struct, frozen=True):
    """What a run needs to know of a tool that the owner registered.

    One that is `idempotent` may be called again when nobody knows what came of the first time. `secrets` are sealed,
    bound to the `id`; what opens them is the kind that uses them.
    """

    name: str
    kind: ToolKind
    description: str | None = None
    schema: JsonObject = {}
    requires_approval: bool = False
    idempotent: bool = False
    enabled: bool = True
    timeout_seconds: float = TOOL_SECONDS
    id: UUID | None = None
    config: JsonObject = {}
    secrets: StoredJson = msgspec.Raw(b"{}")
    mcp_server_id: UUID | None = None


def is_idempotent(kind: ToolKind, config: JsonObject) -> bool:
    """Whether a call may be made again when nobody knows what came of the first time."""
    if kind is ToolKind.MCP:
        hints = config.get("annotations", {})
        return bool(hints.get("readOnlyHint") or hints.get("idempotentHint"))
    return kind is ToolKind.BUILTIN or (kind is ToolKind.HTTP and config.get("method") in IDEMPOTENT)


class Tool(Resource):
    """Something that a model may do, with the schema of its arguments."""

    id: UUID
    name: str
    description: str | None
    schema: StoredObject
    kind: ToolKind
    config: StoredObject
    mcp_server_id: UUID | None
    enabled: bool
    requires_approval: bool
    metadata: StoredObject
    created_at: datetime
    updated_at: datetime


class ToolPage(Page):
    """Tools of a list."""

    items: list[Tool]


class CreateTool(Input):
    """A new tool. One of kind `builtin` has a schema of its own, and one of their names; all others need a schema.

    `config` is for kind `http`: `{method, url, headers?, body?, timeout_seconds?}`.
    """

    name: ToolName
    kind: ToolKind
    description: Description | None = None
    schema: JsonObject | None = None
    config: JsonObject = {}
    enabled: bool = True
    requires_approval: bool = False
    metadata: JsonObject = {}

    def check(self) -> list[FieldError]:
        self.name = self.name.strip()
        own = self._check_builtin() if self.kind is ToolKind.BUILTIN else self._check_schema()
        return own + self._check_config() + check_metadata(self.metadata)

    def _check_config(self) -> list[FieldError]:
        if self.kind is ToolKind.HTTP:
            return check_http(self.config, self.schema)
        if self.kind is ToolKind.MCP:  # Of what a sync made, nothing of it may be changed.
            return []
        return [FieldError(f"config.{name}", f"A {self.kind} tool has no such setting") for name in self.config]

    def _check_builtin(self) -> list[FieldError]:
        if self.name not in BUILTINS:
            return [FieldError("name", f"A builtin tool is one of {', '.join(BUILTINS)}", self.name)]
        if self.schema is not None:
            return [FieldError("schema", "A builtin tool has a schema of its own")]
        return []

    def _check_schema(self) -> list[FieldError]:
        if self.schema is None:
            return [FieldError("schema", f"Is required for a tool of kind {self.kind}")]
        return check_schema("schema", self.schema)

    @property
    def whole_schema(self) -> JsonObject:
        """The schema of the arguments, wherever it comes from."""
        return BUILTINS[self.name].schema if self.schema is None else self.schema


class ReplaceTool(CreateTool):
    """PUT: what is absent goes back to its default."""


class PatchTool(Input):
    """JSON Merge Patch: what is absent stays, null clears."""

    name: ToolName | UnsetType = UNSET
    kind: ToolKind | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    schema: JsonObject | None | UnsetType = UNSET
    config: JsonObject | None | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    requires_approval: bool | UnsetType = UNSET
    metadata: JsonObject | None | UnsetType = UNSET


class InvokeTool(Input):
    """What to call a tool with."""

    arguments: JsonObject = {}


class ToolOutput(msgspec.Struct):
    """What came of a call, as a model would hear it; of an output over 256 KiB the start, as text."""

    output: JsonValue
    is_error: bool
    truncated: bool
    duration_ms: int


class ToolFilter(Filter, frozen=True, kw_only=True):
    enabled: bool | None = None
    kind: ToolKind | None = None
    mcp_server_id: UUID | None = None
    search: str | None = None
