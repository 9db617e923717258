"""How a registered MCP server is connected to: its transport, its credentials, and whether the operator allows it."""

import asyncio
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ai_agent.domain.mcp_servers import Authentication, AuthenticationType, Transport
from ai_agent.execution.mcp.commands import StdioCommand
from ai_agent.execution.mcp.failures import McpLost
from ai_agent.execution.mcp.protocol import Link
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_box import UnreadableSecret
from ai_agent.security.secret_fields import SecretFields
from ai_agent.storage.mcp_servers import Configuration

if TYPE_CHECKING:
    from ai_agent.execution.mcp.http import Credentials


class Links:
    """`commands` are the operator's, by name."""

    def __init__(self, guard: OutboundGuard, secrets: SecretFields, commands: Mapping[str, StdioCommand]):
        self._guard = guard
        self._secrets = secrets
        self.commands = commands

    async def connect(self, asked: Configuration) -> Link:
        """Raises McpLost."""
        return await (self._child(asked) if asked.transport is Transport.STDIO else self._http(asked))

    async def _child(self, asked: Configuration) -> Link:
        from ai_agent.execution.mcp.stdio import StdioLink

        name = asked.command or ""
        command = self.commands.get(name)
        if command is None:  # The operator has taken it away since.
            raise McpLost(f"The operator names no command {name}", unsent=True)
        return await StdioLink.start(name, command)

    async def _http(self, asked: Configuration) -> Link:
        # The first one costs a fifth of a second, which nobody else shall wait for.
        await asyncio.to_thread(importlib.import_module, "ai_agent.execution.mcp.http")
        from ai_agent.execution.mcp.http import HttpLink

        return HttpLink(self._guard, asked.endpoint or "", self._credentials(asked))

    def _credentials(self, asked: Configuration) -> "Credentials":
        from ai_agent.execution.mcp.credentials import ClientCredentials, FixedHeaders

        given = self._opened(asked)
        match given.type:
            case AuthenticationType.OAUTH:
                return ClientCredentials(self._guard, given, asked.endpoint or "")
            case AuthenticationType.BEARER:
                return FixedHeaders({"authorization": f"Bearer {given.token}"})
            case _:
                return FixedHeaders({name.lower(): value for name, value in (given.headers or {}).items()})

    def _opened(self, asked: Configuration) -> Authentication:
        shown = msgspec.json.decode(asked.authentication, type=Authentication)
        try:
            return shown.with_secrets(lambda path: self._secrets.open(asked.id, asked.secrets, path))
        except UnreadableSecret:
            raise McpLost("The server's secrets cannot be read any more: write them anew", unsent=True) from None
