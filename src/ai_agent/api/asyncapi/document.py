"""The AsyncAPI 3.0 document: every frame that a WebSocket carries, made from the Structs that decode and encode them.

It describes the server: what it receives and what it sends.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ai_agent.api.asyncapi.messages import (
    ANSWERS,
    ANSWERS_TAG,
    COMMANDS,
    COMMANDS_TAG,
    EVENTS_TAG,
    HEALTH,
    TOLD,
    Message,
    message_schemas,
)
from ai_agent.domain.frames import JSON_PROTOCOL, MSGPACK_PROTOCOL, CloseCode

_TICKET = {"type": "string", "description": "From `POST /api/v1/auth/ws-ticket`; good once, for 30 seconds"}
_PROTOCOLS = {
    "type": "string",
    "enum": [JSON_PROTOCOL, MSGPACK_PROTOCOL],
    "description": "How frames are encoded: as text or as binary; JSON without one",
}
_BINDINGS = {
    "ws": {
        "method": "GET",
        "query": {"type": "object", "properties": {"ticket": _TICKET}},
        "headers": {"type": "object", "properties": {"Sec-WebSocket-Protocol": _PROTOCOLS}},
        "bindingVersion": "0.1.0",
    }
}

_SECURITY = {
    "FirstFrame": {
        "type": "apiKey",
        "in": "password",
        "description": "An API key or a JWT as the `token` of the `connect` frame: the way for browsers",
    },
    "Header": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key or a JWT in `Authorization` of the upgrade; `connect` then needs no token",
    },
    "Ticket": {
        "type": "httpApiKey",
        "in": "query",
        "name": "ticket",
        "description": "A single-use ticket; `connect` then needs no token",
    },
}

_TAGS = {
    COMMANDS_TAG: "What a client sends.",
    ANSWERS_TAG: "What the server says of commands, subscriptions and the connection.",
    EVENTS_TAG: "What has happened.",
}

_CORRELATION = {"location": "$message.payload#/id", "description": "The client's own number of a command"}

_HEALTH_CHANNEL = {
    "address": "/ws/health",
    "title": "Health",
    "description": "Says that sockets are served, and closes with 1000. Needs no credentials.",
    "messages": {HEALTH.title: {"$ref": HEALTH.reference}},
}


def asyncapi() -> dict[str, Any]:
    """The document, the same for every server."""
    frames = [*COMMANDS, *TOLD]
    channels = {
        "all": _channel("/ws", "All channels", "Hears of what it subscribes to.", frames),
        "session": _channel("/ws/session/{session_id}", "One session", "Is subscribed to that session at once.", frames)
        | {"parameters": {"session_id": {"description": "The session"}}},
        "health": _HEALTH_CHANNEL,
    }
    return {
        "asyncapi": "3.0.0",
        "id": "urn:ai-agent:realtime:v1",
        "info": _info(),
        "defaultContentType": "application/json",
        "servers": {"plain": _server("ws", "This server"), "tls": _server("wss", "This server, behind TLS")},
        "channels": channels,
        "operations": _operations("all", "") | _operations("session", "InSession") | _health_operation(),
        "components": {
            "schemas": message_schemas(),
            "messages": {message.title: message.described() for message in [*frames, HEALTH]},
            "securitySchemes": _SECURITY,
            "correlationIds": {"command": _CORRELATION},
        },
        "x-close-codes": [_close_code(code) for code in CloseCode],
    }


def _info() -> dict[str, Any]:
    return {
        "title": "AI Agent real-time API",
        "version": "1.0.0",
        "description": (Path(__file__).parent / "description.md").read_text(encoding="utf-8"),
        "license": {"name": "MIT"},
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
    }


def _server(protocol: str, description: str) -> dict[str, Any]:
    return {
        "host": "{host}",
        "protocol": protocol,
        "description": description,
        "variables": {"host": {"default": "127.0.0.1:8000", "description": "Where it is reached"}},
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY],
    }


def _channel(address: str, title: str, description: str, frames: Iterable[Message]) -> dict[str, Any]:
    return {
        "address": address,
        "title": title,
        "description": description,
        "messages": {message.title: {"$ref": message.reference} for message in frames},
        "bindings": _BINDINGS,
    }


def _operations(channel: str, suffix: str) -> dict[str, dict[str, Any]]:
    """One for each command, with what may answer it, and one for all that the server says."""
    received = {f"receive{command.title}{suffix}": _receives(channel, command) for command in COMMANDS}
    sends = {"action": "send", "description": "Answers, events, and what is said of the connection"}
    return received | {f"sendFrames{suffix}": sends | _messages(channel, TOLD)}


def _receives(channel: str, command: Message) -> dict[str, Any]:
    operation = {"action": "receive", "description": command.summary} | _messages(channel, [command])
    answers = [message for message in TOLD if message.title in ANSWERS.get(command.title, ())]
    return operation | ({"reply": _messages(channel, answers)} if answers else {})


def _health_operation() -> dict[str, dict[str, Any]]:
    return {"sendHealth": {"action": "send", "description": HEALTH.summary} | _messages("health", [HEALTH])}


def _messages(channel: str, messages: Iterable[Message]) -> dict[str, Any]:
    place = f"#/channels/{channel}"
    references = [{"$ref": f"{place}/messages/{message.title}"} for message in messages]
    return {"channel": {"$ref": place}, "messages": references}


def _close_code(code: CloseCode) -> dict[str, Any]:
    return {"code": code.value, "reason": code.reason, "reconnect": code.reconnect}
