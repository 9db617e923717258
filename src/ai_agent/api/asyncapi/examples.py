"""One example of each frame, and of what each event holds."""

from typing import Any

from ai_agent.api.openapi.examples import AGENT, ANSWER, EVENT, EXECUTION, QUESTION, SESSION
from ai_agent.api.openapi.examples import EXAMPLES as RESOURCES
from ai_agent.domain import frames
from ai_agent.domain.agents import Agent
from ai_agent.domain.events import EventType
from ai_agent.domain.messages import Message
from ai_agent.domain.sessions import Session

CHANNEL = f"execution:{EXECUTION}"

_TIME = 1767268800940
_POSITION = {"epoch": "k3f9a1c2", "seq": 418}
_USAGE = {"input_tokens": 31, "output_tokens": 9, "cached_tokens": 0, "cost": None, "estimated": False}

EXAMPLES: dict[type, dict[str, Any]] = {
    frames.Connect: {
        "t": "connect",
        "id": 1,
        "token": "sk-production-…",
        "client": {"name": "web", "instance": "01J9ZK"},
        "caps": ["batch"],
        "resume": [{"ch": CHANNEL, **_POSITION}],
    },
    frames.Subscribe: {
        "t": "subscribe",
        "id": 2,
        "ch": CHANNEL,
        "since": _POSITION,
        "on_gap": "latest",
        "types": ["execution.*", "tool.*"],
    },
    frames.Unsubscribe: {"t": "unsubscribe", "id": 3, "ch": CHANNEL},
    frames.Ack: {"t": "ack", "id": 4, "ch": "user:ada", "lane": 1, "seq": 1210},
    frames.Nack: {"t": "nack", "id": 5, "ch": "user:ada", "eid": EVENT, "delay_ms": 5000},
    frames.History: {"t": "history", "id": 6, "ch": CHANNEL, "since": {"seq": 0}, "limit": 200},
    frames.Call: {"t": "call", "id": 7, "method": "execution.cancel", "params": {"execution_id": EXECUTION}},
    frames.Auth: {"t": "auth", "id": 8, "token": "sk-production-…"},
    frames.Presence: {"t": "presence", "id": 9, "ch": f"presence:{SESSION}", "typing": True},
    frames.Ping: {"t": "ping", "id": 10},
    frames.Pong: {"t": "pong"},
    frames.Welcome: {
        "t": "welcome",
        "id": 1,
        "conn": "01930e5c7a107000",
        "user": "ada",
        "node": "api-1",
        "heartbeat": {"ping_ms": 25_000, "pong_ms": 10_000},
        "expires_at": None,
        "limits": {"frame": 65_536, "subscriptions": 100, "commands_per_second": 50},
        "resumed": [{"ch": CHANNEL, "recovered": True, **_POSITION, "top": 431, "floor": 1}],
    },
    frames.Subscribed: {"t": "subscribed", "id": 2, "ch": CHANNEL, **_POSITION, "top": 431, "floor": 1}
    | {"recovered": True},
    frames.Live: {"t": "live", "ch": CHANNEL, "seq": 431},
    frames.EpochChanged: {"t": "epoch", "ch": CHANNEL, "epoch": "9d2c77e0", "seq": 440, "rewound_to": 437},
    frames.GapFrame: {"t": "gap", "ch": CHANNEL, "from": 12, "to": 80, "reason": "trimmed"},
    frames.Reply: {"t": "reply", "id": 8, "data": {"expires_at": 1767270600000}},
    frames.ErrorFrame: {
        "t": "error",
        "id": 2,
        "code": "authorization_error",
        "status": 403,
        "message": "You may not listen there",
        "retryable": False,
        "ch": CHANNEL,
    },
    frames.ServerPing: {"t": "ping"},
    frames.ServerPong: {"t": "pong", "id": 10},
    frames.AuthExpiring: {"t": "auth_expiring", "in_ms": 60_000},
    frames.Unsubscribed: {"t": "unsubscribed", "ch": CHANNEL, "reason": "revoked"},
    frames.Drain: {"t": "drain", "after_ms": 7300, "reason": "deploy"},
    frames.Bye: {"t": "bye", "code": 4420, "reason": "draining", "reconnect": True, "after_ms": 350},
}

_CALL = {"call_id": "call_1", "name": "refund_invoice"}
_ARGUMENTS = {"arguments": {"invoice": "2026-001"}, "truncated": False}
_ASKED = {"execution_id": EXECUTION, "session_id": SESSION, **_CALL}
_RUN = {"execution_id": EXECUTION, "session_id": SESSION, "agent_id": AGENT}
_ENDED = {**_RUN, "message_id": ANSWER, "usage": _USAGE, "execution_time_ms": 1650}
_TOOL_ENDED = {**_CALL, "duration_ms": 12, "truncated": False}

DATA_EXAMPLES: dict[EventType, dict[str, Any]] = {
    EventType.QUEUED: {**_RUN, "input_message_id": QUESTION},
    EventType.STARTED: {**_RUN, "attempt": 1},
    EventType.RESTARTED: {**_RUN, "attempt": 2},
    EventType.TOKEN: {"message_id": ANSWER, "offset": 0, "text": "The second"},
    EventType.REASONING: {"message_id": ANSWER, "text": "Two charges on one day"},
    EventType.SNAPSHOT: {
        "message_id": ANSWER,
        "text": "The second",
        "offset": 10,
        "status": "running",
        "truncated": False,
    },
    EventType.PROGRESS: {"step": 1, "steps": 10, "percent": None, "message": None},
    EventType.COMPLETED: _ENDED,
    EventType.FAILED: {**_RUN, "code": "external_service_error", "message": "The model is away", "retryable": True},
    EventType.CANCELLED: _ENDED,
    EventType.TOOL_STARTED: {**_CALL, "kind": "client", **_ARGUMENTS, "expires_at": "2026-01-01T12:10:00Z"},
    EventType.TOOL_PROGRESS: {**_CALL, "progress": 2, "total": 5, "message": "Copying"},
    EventType.TOOL_COMPLETED: {**_TOOL_ENDED, "output": {"refunded": True}},
    EventType.TOOL_FAILED: {**_TOOL_ENDED, "output": "There is no such invoice"},
    EventType.APPROVAL_REQUESTED: {**_ASKED, **_ARGUMENTS, "expires_at": "2026-01-01T12:10:00Z"},
    EventType.APPROVAL_RESOLVED: {**_ASKED, **_ARGUMENTS, "decision": "approve", "reason": None},
    EventType.APPROVAL_EXPIRED: _ASKED,
    EventType.MESSAGE_CREATED: RESOURCES[Message],
    EventType.MESSAGE_UPDATED: RESOURCES[Message],
    EventType.MESSAGE_DELETED: {"id": QUESTION, "session_id": SESSION, "parent_message_id": None},
    EventType.SESSION_CREATED: RESOURCES[Session],
    EventType.SESSION_UPDATED: RESOURCES[Session],
    EventType.SESSION_DELETED: {"id": SESSION},
    EventType.AGENT_CREATED: RESOURCES[Agent],
    EventType.AGENT_UPDATED: RESOURCES[Agent],
    EventType.AGENT_DELETED: {"id": AGENT},
    EventType.PRESENCE_JOINED: {"user_id": "ada", "client": "web:01J9ZK"},
    EventType.PRESENCE_LEFT: {"user_id": "ada"},
    EventType.PRESENCE_TYPING: {"user_id": "ada", "typing": True},
    EventType.MCP_SERVER_STATUS: {
        "mcp_server_id": EVENT,
        "name": "issues",
        "status": "unreachable",
        "previous": "degraded",
        "last_error": "The server cannot be reached",
    },
    EventType.NOTIFICATION: {"title": "Your report is ready", "body": None, "data": {"report": 7}},
}


def event_example(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"t": "event", "ch": CHANNEL, "seq": 419, "eid": EVENT, "type": kind, "ts": _TIME, "data": data}
