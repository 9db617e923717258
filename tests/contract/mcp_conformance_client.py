"""Our MCP client as the conformance suite calls it, with a server's address: it lists the tools and calls each."""

import asyncio
import sys
from typing import Any

from ai_agent.execution.mcp.credentials import FixedHeaders
from ai_agent.execution.mcp.http import HttpLink
from ai_agent.execution.mcp.protocol import Connection
from ai_agent.security.outbound import OutboundGuard
from ai_agent.settings import load_settings

VALUES: dict[str, Any] = {"number": 2, "integer": 2, "string": "x", "boolean": True}


async def main(url: str) -> None:
    guard = OutboundGuard(load_settings({"AI_AGENT_OUTBOUND_ALLOW": "127.0.0.0/8,::1/128"}).outbound_networks)
    connection = Connection(HttpLink(guard, url, FixedHeaders({})))
    try:
        await connection.open()
        for tool in await connection.list_tools():
            properties = tool["inputSchema"].get("properties", {})
            arguments = {name: VALUES[schema["type"]] for name, schema in properties.items()}
            print(await connection.call_tool(tool["name"], tool["inputSchema"], arguments, None))
    finally:
        await connection.close()


asyncio.run(main(sys.argv[1]))
