"""One example of each Struct that a request or an answer is made of. Pages, lists and errors follow from these."""

from typing import Any
from uuid import UUID

import msgspec

from ai_agent.api.v1.health import Alive, Health, Ready
from ai_agent.api.v1.rate_limits import RateLimits
from ai_agent.domain.administration import Configuration, Stats
from ai_agent.domain.agents import Agent, AgentVersion, CreateAgent, PatchAgent, ReplaceAgent
from ai_agent.domain.api_keys import ApiKey, CreateApiKey, NewApiKey, RotateApiKey
from ai_agent.domain.audit import AuditEntry
from ai_agent.domain.connections import ConnectionInfo
from ai_agent.domain.deliveries import Delivery, WebhookSecret
from ai_agent.domain.events import EventFrame
from ai_agent.domain.execution_history import AgentMetrics
from ai_agent.domain.executions import ExecuteAgent, Execution, ExecutionAnswer
from ai_agent.domain.exports import SessionLine
from ai_agent.domain.frames import ClientInfo
from ai_agent.domain.health import ServiceHealth, ServicesHealth
from ai_agent.domain.inbox import (
    Accepted,
    DeadLetter,
    DeadLetterCount,
    DeadLetters,
    Durations,
    EventDelivery,
    EventMetrics,
    Notify,
    PublishEvent,
    Recipient,
    UserQueue,
)
from ai_agent.domain.mcp_servers import (
    Authentication,
    CreateMcpServer,
    FailedTool,
    McpServer,
    McpServerHealth,
    McpServerTest,
    McpSync,
    PatchMcpServer,
    ReplaceMcpServer,
)
from ai_agent.domain.messages import CreateMessage, FoundMessage, Message, PatchMessage, ReplaceMessage, Thread
from ai_agent.domain.rate_limit_overrides import (
    LimitTexts,
    OverrideRateLimits,
    PrincipalRateLimits,
    RateLimitOverride,
)
from ai_agent.domain.sessions import CreateSession, ForkSession, PatchSession, ReplaceSession, Session
from ai_agent.domain.tokens import Me, RefreshToken, Tokens, WebSocketTicket
from ai_agent.domain.tool_calls import ResolveApproval, ToolCall, ToolCalls, ToolResult
from ai_agent.domain.tools import CreateTool, InvokeTool, PatchTool, ReplaceTool, Tool, ToolOutput

SESSION = "01930e5c-7a10-7000-8000-000000000001"
QUESTION = "01930e5c-7a10-7000-8000-000000000002"
ANSWER = "01930e5c-7a10-7000-8000-000000000003"
AGENT = "01930e5c-7a10-7000-8000-000000000004"
EXECUTION = "01930e5c-7a10-7000-8000-000000000005"
EVENT = "01930e5c-7a10-7000-8000-000000000006"
DELIVERY = "01930e5c-7a10-7000-8000-00000000000b"
KEY = "01930e5c-7a10-7000-8000-000000000008"
TOOL = "01930e5c-7a10-7000-8000-00000000000c"

_USAGE = {"input_tokens": 31, "output_tokens": 9, "cached_tokens": 0, "cost": None, "estimated": False}
_MODEL = {"provider": "openai", "model": "gpt-4o-mini", "temperature": 0.2, "timeout_seconds": 60.0}

_REFRESH_TOKEN = "rt-production-" + "0" * 43 + "3kRc7D"

_MESSAGE: dict[str, Any] = {
    "id": QUESTION,
    "session_id": SESSION,
    "role": "user",
    "content": "Why was I charged twice?",
    "metadata": {},
    "tool_calls": [],
    "parent_message_id": None,
    "agent_id": None,
    "execution_id": None,
    "position": 1,
    "created_at": "2026-01-01T12:00:00.500000Z",
    "updated_at": "2026-01-01T12:00:00.500000Z",
}

_KEY: dict[str, Any] = {
    "id": KEY,
    "name": "billing service",
    "owner_id": "billing",
    "scopes": ["sessions:read", "sessions:write", "agents:execute"],
    "tier": "authenticated",
    "expires_at": "2027-01-01T00:00:00Z",
    "revoked_at": None,
    "rotated_to": None,
    "last_used_at": "2026-01-01T12:00:00Z",
    "created_at": "2026-01-01T11:00:00Z",
}

_TOOL: dict[str, Any] = {
    "name": "refund_invoice",
    "kind": "client",
    "description": "Pays an invoice back, once it was looked at",
    "schema": {"type": "object", "properties": {"invoice": {"type": "string"}}, "required": ["invoice"]},
    "requires_approval": True,
}

_CLIENT = {"name": "web", "instance": "01930e5c-7a10-7000-8000-00000000000e"}

_LIMITS = [
    {
        "scope": "session_create",
        "limit": "100 per 1 minute",
        "quota": 100,
        "window": 60,
        "remaining": 97,
        "reset": 1767268823,
    }
]

_TOOL_CALL = {
    "call_id": "call_1",
    "step": 1,
    "name": "calculator",
    "kind": "builtin",
    "arguments": {"expression": "2 * 21"},
    "status": "completed",
    "output": {"result": 42},
    "is_error": False,
    "decision": None,
    "reason": None,
    "duration_ms": 1,
    "expires_at": None,
    "created_at": "2026-01-01T12:00:01Z",
    "finished_at": "2026-01-01T12:00:01Z",
}

_HTTP_TOOL: dict[str, Any] = {
    "name": "weather",
    "kind": "http",
    "description": "Tells the weather of a city.",
    "schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "config": {
        "method": "GET",
        "url": "https://api.example.com/v1/weather?city={city}",
        "headers": {"Authorization": "Bearer s3cr3t"},
        "timeout_seconds": 10,
    },
}

_EVENT = "01930e5c-7a10-7000-8000-00000000000f"
_DURATIONS = {"count": 1200, "p50": 0.0025, "p99": 0.01}

_MCP_SERVER = {
    "name": "issues",
    "description": "Our tracker",
    "transport": "streamable_http",
    "endpoint": "https://mcp.example.com/mcp",
}
_FAILED_TOOL = {"name": "merge", "error": "inputSchema.type: Must be object: arguments have names"}
_SERVICE = {
    "kind": "model",
    "name": "openai",
    "status": "failing",
    "id": None,
    "latency_ms": None,
    "breaker": "open",
    "error": "https://api.openai.com/v1 answers 503",
}

_OVERRIDE = {
    "id": KEY,
    "user_id": "billing",
    "tier": "premium",
    "limits": {"execute": "50/minute"},
    "reason": "The end of the year",
    "expires_at": "2027-01-15T00:00:00Z",
    "created_at": "2026-12-20T08:00:00Z",
    "updated_at": "2026-12-20T08:00:00Z",
}

EXAMPLES: dict[type, Any] = {
    UUID: SESSION,
    Session: {
        "id": SESSION,
        "user_id": "customer-42",
        "title": "Billing question",
        "metadata": {"plan": "pro"},
        "message_count": 2,
        "last_activity": "2026-01-01T12:00:02.150000Z",
        "status": "idle",
        "created_at": "2026-01-01T12:00:00Z",
        "updated_at": "2026-01-01T12:00:02.150000Z",
    },
    ForkSession: {"from_message_id": QUESTION, "title": "Another way"},
    CreateSession: {"user_id": "customer-42", "title": "Billing question", "metadata": {"plan": "pro"}},
    ReplaceSession: {"title": "Billing question", "metadata": {"plan": "enterprise"}},
    PatchSession: {"title": "Invoice 2026-001", "metadata": {"plan": None, "resolved": True}},
    Message: _MESSAGE,
    Thread: {
        "ancestors": [],
        "message": _MESSAGE | {"sibling_count": 1, "sibling_index": 0},
        "replies": [],
        "ancestors_truncated": False,
        "replies_truncated": False,
    },
    FoundMessage: _MESSAGE,
    CreateMessage: {"content": "Why was I charged twice?", "role": "user"},
    ReplaceMessage: {"content": "Why was I charged two times?", "role": "user", "metadata": {"edited": True}},
    PatchMessage: {"metadata": {"rating": 5}},
    Agent: {
        "id": AGENT,
        "name": "support",
        "description": "Answers questions about invoices",
        "system_prompt": "You are a friendly accountant.",
        "model_config": _MODEL,
        "tools": [],
        "status": "idle",
        "version": 1,
        "metadata": {},
        "created_at": "2026-01-01T11:00:00Z",
        "updated_at": "2026-01-01T11:00:00Z",
    },
    AgentVersion: {
        "agent_id": AGENT,
        "version": 1,
        "name": "support",
        "description": None,
        "system_prompt": "You are an accountant.",
        "model_config": _MODEL,
        "tools": [],
        "metadata": {},
        "created_at": "2026-01-01T11:00:00Z",
    },
    CreateAgent: {"name": "support", "system_prompt": "You are a friendly accountant.", "model_config": _MODEL},
    ReplaceAgent: {"name": "support", "model_config": _MODEL},
    PatchAgent: {"description": "Answers questions about invoices", "model_config": {"temperature": None}},
    ExecuteAgent: {"message": "Why was I charged twice?", "session_id": SESSION},
    Execution: {
        "id": EXECUTION,
        "agent_id": AGENT,
        "agent_version": 1,
        "session_id": SESSION,
        "status": "completed",
        "input_message_id": QUESTION,
        "output_message_id": ANSWER,
        "error": None,
        "usage": _USAGE,
        "attempt": 1,
        "queued_at": "2026-01-01T12:00:00.500000Z",
        "started_at": "2026-01-01T12:00:00.510000Z",
        "first_token_at": "2026-01-01T12:00:00.940000Z",
        "finished_at": "2026-01-01T12:00:02.150000Z",
        "metadata": {},
    },
    AgentMetrics: {
        "window": "24h",
        "total": 3,
        "by_status": {"queued": 0, "running": 1, "waiting": 0, "completed": 1, "failed": 1, "cancelled": 0},
        "success_rate": 0.5,
        "latency_ms": {"p50": 1650, "p95": 4210, "p99": 4210},
        "time_to_first_token_ms": {"p50": 440, "p95": 510, "p99": 510},
        "tokens": {"input": 62, "output": 18},
        "cost": 0.0021,
        "tool_calls": 1,
        "series": [
            {"start": "2026-01-01T11:00:00Z", "total": 3, "failed": 1, "latency_p95_ms": 4210, "tokens": 80},
            {"start": "2026-01-01T12:00:00Z", "total": 0, "failed": 0, "latency_p95_ms": None, "tokens": 0},
        ],
    },
    ExecutionAnswer: {
        "execution_id": EXECUTION,
        "session_id": SESSION,
        "message_id": ANSWER,
        "content": "The second charge was reversed on Monday.",
        "metadata": {},
        "tool_calls": [],
        "usage": _USAGE,
        "execution_time_ms": 1650,
    },
    EventFrame: {
        "ch": f"execution:{EXECUTION}",
        "seq": 3,
        "eid": EVENT,
        "type": "execution.token",
        "ts": 1767268800940,
        "data": {"message_id": ANSWER, "offset": 0, "text": "The second"},
        "t": "event",
    },
    ToolCalls: {"items": [_TOOL_CALL]},
    ToolCall: _TOOL_CALL,
    ResolveApproval: {"decision": "approve", "arguments": {"expression": "2 * 21"}},
    ToolResult: {"output": {"opened": True}},
    Delivery: {
        "id": DELIVERY,
        "execution_id": EXECUTION,
        "url": "https://example.com/hooks/ai-agent",
        "event": "execution.completed",
        "status": "delivered",
        "attempts": 2,
        "response_status": 204,
        "error": None,
        "next_attempt_at": None,
        "created_at": "2026-01-01T12:00:02.150000Z",
        "finished_at": "2026-01-01T12:00:03.400000Z",
    },
    WebhookSecret: {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="},
    Tool: _TOOL
    | {
        "id": TOOL,
        "config": {},
        "mcp_server_id": None,
        "enabled": True,
        "metadata": {},
        "created_at": "2026-01-01T11:00:00Z",
        "updated_at": "2026-01-01T11:00:00Z",
    },
    CreateTool: _HTTP_TOOL,
    ReplaceTool: {"name": "current_time", "kind": "builtin", "requires_approval": True},
    PatchTool: {"enabled": False},
    McpServer: _MCP_SERVER
    | {
        "id": "01930e5c-7a10-7000-8000-00000000000e",
        "command": None,
        "authentication": {"type": "bearer", "token": "***"},
        "capabilities": {"tools": {}},
        "protocol_version": "2026-07-28",
        "health_check_url": None,
        "enabled": True,
        "status": "connected",
        "last_error": None,
        "last_seen_at": "2026-01-01T12:00:00Z",
        "tool_count": 12,
        "metadata": {},
        "created_at": "2026-01-01T11:00:00Z",
        "updated_at": "2026-01-01T11:00:00Z",
    },
    Authentication: {"type": "bearer", "token": "ghp_…"},
    CreateMcpServer: _MCP_SERVER | {"authentication": {"type": "bearer", "token": "ghp_0000"}},
    ReplaceMcpServer: {"name": "clock", "transport": "stdio", "command": "time"},
    PatchMcpServer: {"enabled": False},
    McpServerHealth: {
        "status": "degraded",
        "latency_ms": None,
        "last_error": "The server cannot be reached",
        "last_seen_at": "2026-01-01T12:00:00Z",
    },
    McpServerTest: {
        "ok": True,
        "error": None,
        "latency_ms": 41.2,
        "protocol_version": "2026-07-28",
        "capabilities": {"tools": {}},
        "tools": ["create_issue", "list_issues"],
    },
    McpSync: {
        "added": ["create_issue"],
        "changed": ["list_issues"],
        "removed": ["search_code"],
        "failed": [_FAILED_TOOL],
        "unchanged": 9,
    },
    FailedTool: _FAILED_TOOL,
    InvokeTool: {"arguments": {"city": "Kyoto"}},
    ToolOutput: {"output": {"temperature": 14}, "is_error": False, "truncated": False, "duration_ms": 120},
    RateLimitOverride: _OVERRIDE,
    OverrideRateLimits: {name: _OVERRIDE[name] for name in ("tier", "limits", "reason", "expires_at")},
    LimitTexts: _OVERRIDE["limits"],
    PrincipalRateLimits: {"user_id": "billing", "tier": "premium", "limits": _LIMITS, "override": _OVERRIDE},
    Stats: {
        "version": "0.1.0",
        "counts": {
            "sessions": 1200,
            "messages": 48_211,
            "agents": 14,
            "executions": 20_105,
            "tools": 9,
            "mcp_servers": 2,
            "api_keys": 5,
        },
        "approximate": ["messages", "executions"],
        "live": {"queued": 1, "running": 4, "waiting": 2, "oldest_ready_at": "2026-11-05T12:00:00Z"},
        "last_24h": {
            "completed": 310,
            "failed": 4,
            "cancelled": 2,
            "tokens": {"input": 610_000, "output": 84_000},
            "cost": 2.45,
        },
        "connections": 37,
        "unacknowledged": 3,
        "dead_letters": 0,
        "outbox_oldest_at": None,
    },
    Configuration: {
        "settings": [
            {
                "name": "AI_AGENT_DATABASE_URL",
                "value": "postgresql://api:***@db/ai_agent",
                "is_default": False,
            }
        ]
    },
    RateLimits: {"tier": "authenticated", "limits": _LIMITS},
    Health: {"status": "ok", "version": "0.1.0", "uptime": 86400.5, "degraded": [], "failing": []},
    ServicesHealth: {"status": "degraded", "services": [_SERVICE]},
    ServiceHealth: _SERVICE,
    ApiKey: _KEY,
    NewApiKey: _KEY | {"last_used_at": None, "key": "sk-production-…"},
    CreateApiKey: {
        "name": "billing service",
        "owner_id": "billing",
        "scopes": ["sessions:read", "sessions:write", "agents:execute"],
        "expires_at": "2027-01-01T00:00:00Z",
    },
    RotateApiKey: {"overlap_seconds": 3600},
    AuditEntry: {
        "id": "01930e5c-7a10-7000-8000-000000000009",
        "actor": "admin",
        "key_id": "01930e5c-7a10-7000-8000-00000000000a",
        "action": "key.revoked",
        "target_type": "api_key",
        "target_id": KEY,
        "details": {"name": "billing service", "owner_id": "billing"},
        "address": "203.0.113.7",
        "correlation_id": "01930e5c7a1070008000000000000007",
        "created_at": "2026-01-01T12:00:00Z",
    },
    ConnectionInfo: {
        "id": "01930e5c-7a10-7000-8000-00000000000d",
        "user_id": "acme",
        "node": "api-1",
        "address": "203.0.113.7",
        "client": _CLIENT,
        "subscriptions": [f"session:{SESSION}"],
        "connected_at": "2026-01-01T12:00:00Z",
    },
    ClientInfo: _CLIENT,
    Notify: {
        "to": {"user_id": "customer-42"},
        "title": "Your report is ready",
        "body": "It took a little longer than usual.",
        "data": {"report": 7},
        "lane": 1,
        "expires_in": 86400,
    },
    Recipient: {"user_id": "customer-42"},
    PublishEvent: {"type": "order.paid", "data": {"order": 7}},
    Accepted: {"eid": _EVENT},
    EventDelivery: {
        "eid": _EVENT,
        "status": "acknowledged",
        "type": "notification",
        "user_id": "customer-42",
        "lane": 1,
        "seq": 12,
        "accepted_at": "2026-01-01T12:00:00Z",
        "stored_at": "2026-01-01T12:00:00.004Z",
        "sent_at": "2026-01-01T12:00:00.01Z",
        "tries": 1,
        "acknowledged_at": "2026-01-01T12:00:00.05Z",
        "acknowledged_by": "web:01J9ZC",
        "expires_at": None,
        "dead_at": None,
    },
    UserQueue: {
        "user_id": "customer-42",
        "lane": 1,
        "depth": 3,
        "oldest_at": "2026-01-01T12:00:00Z",
        "dead_letters": 1,
    },
    DeadLetter: {
        "eid": _EVENT,
        "user_id": "customer-42",
        "lane": 1,
        "seq": 11,
        "type": "notification",
        "data": {"title": "Your report is ready", "body": None, "data": {"report": 6}},
        "tries": 5,
        "created_at": "2026-01-01T12:00:00Z",
        "dead_at": "2026-01-01T12:02:30Z",
    },
    DeadLetters: {"user_id": "customer-42"},
    DeadLetterCount: {"count": 1},
    Durations: _DURATIONS,
    EventMetrics: {
        "published": 1200,
        "delivered": 5400,
        "replayed": 300,
        "redeliveries": 2,
        "connections": 40,
        "subscriptions": 65,
        "publish_seconds": _DURATIONS,
        "delivery_seconds": _DURATIONS,
        "acknowledge_seconds": _DURATIONS,
        "unacknowledged": 3,
        "dead_letters": 1,
        "oldest_unacknowledged_at": "2026-01-01T12:00:00Z",
        "outbox_oldest_at": None,
    },
    Tokens: {
        "access_token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhY21lIn0.c2lnbmF0dXJl",
        "token_type": "Bearer",
        "expires_in": 1800,
        "refresh_token": _REFRESH_TOKEN,
    },
    RefreshToken: {"refresh_token": _REFRESH_TOKEN},
    WebSocketTicket: {"ticket": "wt-production-" + "0" * 43 + "1mXw0B", "expires_in": 30},
    Me: {
        "user": "acme",
        "role": "user",
        "tier": "authenticated",
        "scopes": ["agents:execute", "sessions:read", "sessions:write"],
        "limits": _LIMITS,
        "key_id": KEY,
        "expires_at": "2026-01-01T12:30:00Z",
    },
    Alive: {"status": "alive"},
    Ready: {"status": "ready", "degraded": []},
}

EXAMPLES[SessionLine] = {"type": "session", "data": EXAMPLES[Session]}

STREAM = (
    "retry: 2000\n\n"
    f"id: 1f0c9a3e:3\nevent: execution.token\ndata: {msgspec.json.encode(EXAMPLES[EventFrame]).decode()}\n\n"
)
