"""What the fields of MCP servers mean."""

_STRUCTS = ("McpServer", "CreateMcpServer", "ReplaceMcpServer", "PatchMcpServer")

MCP_SERVERS = {
    "mcp_server_id": "The MCP server that it comes from; null for all others",
    **{
        f"{operation}.mcp_server_id": "The MCP server"
        for operation in (
            "getMcpServer",
            "replaceMcpServer",
            "patchMcpServer",
            "deleteMcpServer",
            "syncMcpServer",
            "getMcpServerHealth",
            "listMcpServerTools",
        )
    },
    **{
        f"{struct}.{name}": text
        for struct in _STRUCTS
        for name, text in {
            "name": "Unique among the MCP servers of their owner; stripped of outer white space",
            "description": "What it is for; at most 4 096 characters",
            "enabled": "Whether it is asked, and its tools may be called",
        }.items()
    },
    "transport": "How it is spoken to: at an address, or as a child process of the server",
    "endpoint": "Where it is, for `streamable_http`; never an address that the server does not connect to",
    "command": "For `stdio`: one of the names in the operator's file; nothing else runs",
    "authentication": "Who the server is there. Secrets are encrypted, bound to their address, and shown as `***`",
    "Authentication.type": "What it consists of",
    "token": "For `bearer`",
    "headers": "For `headers`: by name; each value is a secret",
    "token_url": "For `oauth_client_credentials`: where a token is fetched",
    "client_id": "For `oauth_client_credentials`",
    "client_secret": "For `oauth_client_credentials`; sent to `token_url` only",
    "Authentication.scope": "For `oauth_client_credentials`: what is asked for",
    "capabilities": "What it said that it can do, when it was asked last",
    "protocol_version": "The revision of the protocol that was agreed on; null while that is not known",
    "health_check_url": "Asked in place of its list of tools, without credentials: any 2xx means that it is there",
    "McpServer.status": "How it was when it was asked last; `degraded` for one that failed to answer lately",
    "McpServerHealth.status": "How it is",
    "last_error": "Why it was of no use when it was asked last; null when it was",
    "last_seen_at": "When it answered last; null for never",
    "tool_count": "How many tools it listed",
    "latency_ms": "How long it took, in milliseconds; null when it did not answer",
    "ok": "Whether it could be used",
    "McpServerTest.error": "Why it could not; null when it could",
    "McpServerTest.latency_ms": "How long it took, in milliseconds",
    "McpServerTest.tools": "The names of its tools that can be used",
    "added": "Tools that are new, or back again",
    "changed": "Tools whose description, schema or hints are others",
    "removed": "Tools that it lists no more: they are disabled",
    "failed": "Tools that cannot be used",
    "unchanged": "How many tools are as they were",
    "FailedTool.name": "The server's own name of the tool, or its place in the list",
    "FailedTool.error": "Why it cannot be used",
    "listTools.mcp_server_id": "Only tools of this MCP server",
    "listMcpServers.search": "Only servers whose name or description contains this, in any case",
    "listMcpServers.status": "Only servers that were so when they were asked last",
    "listMcpServers.transport": "Only servers that are spoken to like this",
    "listMcpServers.enabled": "Only servers that are enabled, or only those that are not",
    "listMcpServerTools.enabled": "Only tools that are enabled, or only those that are not",
}
