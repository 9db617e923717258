"""What `/metrics` tells of calls of tools that the server runs, in runs and by themselves, and of MCP servers."""

from prometheus_client import Counter, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)

CALLS = Counter("ai_agent_tool_calls", "Calls of tools that ended, by kind and how", ["kind", "outcome"])
DURATION = Histogram("ai_agent_tool_call_seconds", "From the call to its output, by kind", ["kind"], buckets=_SECONDS)
MCP_CHECKS = Counter("ai_agent_mcp_checks", "Checks of MCP servers, by the status that they left", ["status"])
