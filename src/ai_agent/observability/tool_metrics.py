"""What `/metrics` tells of calls of tools that the server runs, in runs and by themselves, and of MCP servers."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from ai_agent.observability.metrics import OF_ALL

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)

CALLS = Counter("ai_agent_tool_calls", "Calls of tools that ended, by kind and how", ["kind", "outcome"])
DURATION = Histogram("ai_agent_tool_call_seconds", "From the call to its output, by kind", ["kind"], buckets=_SECONDS)
BREAKERS = Gauge(
    "ai_agent_breakers_open",
    "Models, tools and MCP servers that have failed so often that they are left alone, by what they are",
    ["of"],
    multiprocess_mode="livesum",
)
MCP_SERVERS = Gauge(
    "ai_agent_mcp_servers",
    "MCP servers that are registered, by status; of all nodes. NaN: unknown",
    ["status"],
    multiprocess_mode=OF_ALL,
)
MCP_CHECKS = Counter("ai_agent_mcp_checks", "Checks of MCP servers, by the status that they left", ["status"])


def breakers_are(models: int, tools: int) -> None:
    BREAKERS.labels("model").set(models)
    BREAKERS.labels("tool").set(tools)


def mcp_servers_are(counts: Mapping[str, float]) -> None:
    for status, count in counts.items():
        MCP_SERVERS.labels(status).set(count)
