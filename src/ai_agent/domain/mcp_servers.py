"""MCP servers: where tools come from that others have built."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ai_agent.domain.errors import FieldError
from ai_agent.domain.fields import (
    KEPT_SECRET,
    Description,
    Holds,
    Input,
    JsonObject,
    Name,
    StoredJson,
    StoredObject,
    check_metadata,
)
from ai_agent.domain.pages import Filter, Page
from ai_agent.domain.resources import Resource


class Transport(StrEnum):
    """How an MCP server is spoken to: at an address, or as a child process that the operator has named."""

    STREAMABLE_HTTP = "streamable_http"
    STDIO = "stdio"


class McpServerStatus(StrEnum):
    """`unknown` until it was asked for the first time, `degraded` when it failed to answer lately, but not for long."""

    UNKNOWN = "unknown"
    CONNECTED = "connected"
    DEGRADED = "degraded"
    UNREACHABLE = "unreachable"
    DISABLED = "disabled"


class AuthenticationType(StrEnum):
    """What an MCP server wants to be shown."""

    NONE = "none"
    BEARER = "bearer"
    HEADERS = "headers"
    OAUTH = "oauth_client_credentials"


# Visible ASCII: they become headers.
Secret = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$")]
HeaderValue = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$")]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
Url = Annotated[str, Meta(min_length=1, max_length=2048)]

_WANTED = {
    AuthenticationType.NONE: (),
    AuthenticationType.BEARER: ("token",),
    AuthenticationType.HEADERS: ("headers",),
    AuthenticationType.OAUTH: ("token_url", "client_id", "client_secret"),
}
_OWN_HEADERS = ("host", "content-", "transfer-encoding", "connection", "accept", "mcp-")
"""What the protocol sets itself, by how it begins."""


class Authentication(Input, omit_defaults=True):
    """How the server shows an MCP server who it is. What is secret is `"***"` when it is shown."""

    type: AuthenticationType
    token: Secret | None = None
    headers: Annotated[dict[HeaderName, HeaderValue], Meta(min_length=1, max_length=16)] | None = None
    token_url: Url | None = None
    client_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    client_secret: Secret | None = None
    scope: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None

    def check(self) -> list[FieldError]:
        wanted = _WANTED[self.type]
        given = [name for name in self.__struct_fields__[1:] if getattr(self, name) is not None]
        optional = ("scope",) if self.type is AuthenticationType.OAUTH else ()
        missing = [FieldError(name, f"Is required for {self.type}") for name in wanted if name not in given]
        foreign = [
            FieldError(name, f"Is not for authentication of type {self.type}")
            for name in given
            if name not in (*wanted, *optional)
        ]
        owned = [
            FieldError(f"headers.{name}", "Is set by the server itself")
            for name in self.headers or {}
            if name.lower().startswith(_OWN_HEADERS)
        ]
        return missing + foreign + owned

    @property
    def secrets(self) -> dict[str, str]:
        """What is sealed, by the path of its field in the server."""
        named = {"token": self.token, "client_secret": self.client_secret}
        named |= {f"headers.{name}": value for name, value in (self.headers or {}).items()}
        return {f"authentication.{name}": value for name, value in named.items() if value is not None}

    def with_secrets(self, of: Any) -> "Authentication":
        """The same with other values for its secrets; `of(path)` tells each."""
        changes: dict[str, Any] = {
            name: of(f"authentication.{name}") for name in ("token", "client_secret") if getattr(self, name) is not None
        }
        if self.headers is not None:
            changes["headers"] = {name: of(f"authentication.headers.{name}") for name in self.headers}
        return msgspec.structs.replace(self, **changes)

    @property
    def masked(self) -> "Authentication":
        return self.with_secrets(lambda _: KEPT_SECRET)


class McpServer(Resource):
    """A server that tools come from, and how it was when it was asked last.

    `capabilities` and `protocol_version` are as it told them, `tool_count` is how many tools it listed.
    """

    id: UUID
    name: str
    description: str | None
    transport: Transport
    endpoint: str | None
    command: str | None
    authentication: Annotated[StoredJson, Holds(Authentication)]
    capabilities: StoredObject
    protocol_version: str | None
    health_check_url: str | None
    enabled: bool
    status: McpServerStatus
    last_error: str | None
    last_seen_at: datetime | None
    tool_count: int
    metadata: StoredObject
    created_at: datetime
    updated_at: datetime


class McpServerPage(Page):
    """MCP servers of a list."""

    items: list[McpServer]


class CreateMcpServer(Input):
    """A new MCP server: an `endpoint` for `streamable_http`, a `command` of the operator's for `stdio`."""

    name: Name
    transport: Transport
    description: Description | None = None
    endpoint: Url | None = None
    command: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    authentication: Authentication = msgspec.field(default_factory=lambda: Authentication(AuthenticationType.NONE))
    health_check_url: Url | None = None
    enabled: bool = True
    metadata: JsonObject = {}

    def check(self) -> list[FieldError]:
        self.name = self.name.strip()
        blank = [] if self.name else [FieldError("name", "Must not be blank", self.name)]
        own = self._check_stdio() if self.transport is Transport.STDIO else self._check_http()
        return blank + own + check_metadata(self.metadata)

    def _check_http(self) -> list[FieldError]:
        missing = [] if self.endpoint else [FieldError("endpoint", "Is required for streamable_http")]
        return missing + ([FieldError("command", "Is for stdio only")] if self.command else [])

    def _check_stdio(self) -> list[FieldError]:
        errors = [] if self.command else [FieldError("command", "Is required for stdio")]
        errors += [
            FieldError(name, "Is for streamable_http only")
            for name in ("endpoint", "health_check_url")
            if getattr(self, name)
        ]
        if self.authentication.type is not AuthenticationType.NONE:
            errors.append(FieldError("authentication", "A child process is given none"))
        return errors

    @property
    def destination(self) -> tuple[str | None, str | None]:
        """Where secrets are sent to: one that is kept may not follow to another place."""
        return self.endpoint, self.authentication.token_url


class ReplaceMcpServer(CreateMcpServer):
    """PUT: what is absent goes back to its default."""


class PatchMcpServer(Input):
    """JSON Merge Patch: what is absent stays, null clears."""

    name: Name | UnsetType = UNSET
    transport: Transport | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    endpoint: Url | None | UnsetType = UNSET
    command: str | None | UnsetType = UNSET
    authentication: Annotated[dict[str, Any], Holds(Authentication)] | None | UnsetType = UNSET
    health_check_url: Url | None | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    metadata: JsonObject | None | UnsetType = UNSET


class McpServerFilter(Filter, frozen=True, kw_only=True):
    enabled: bool | None = None
    status: McpServerStatus | None = None
    transport: Transport | None = None
    search: str | None = None


class McpServerHealth(msgspec.Struct):
    """What an MCP server answered just now. `latency_ms` is null when it did not."""

    status: McpServerStatus
    latency_ms: float | None
    last_error: str | None
    last_seen_at: datetime | None


class McpServerTest(msgspec.Struct):
    """What came of trying a configuration: `tools` by name, or the `error` in words."""

    ok: bool
    error: str | None
    latency_ms: float
    protocol_version: str | None
    capabilities: JsonObject
    tools: list[str]


class FailedTool(msgspec.Struct):
    """A tool that a server lists and that cannot be used, and why."""

    name: str
    error: str


class McpSync(msgspec.Struct):
    """What a sync did, by the tools' names here; `unchanged` counts the rest.

    A removed tool is disabled and keeps its settings, in case it comes back.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    failed: list[FailedTool]
    unchanged: int


class McpServerStatusData(msgspec.Struct):
    """`mcp_server.status`: what an MCP server has become."""

    mcp_server_id: UUID
    name: str
    status: McpServerStatus
    previous: McpServerStatus
    last_error: str | None
