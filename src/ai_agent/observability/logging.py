"""Logs: JSON lines in production, colours on a terminal, and nothing secret ever."""

import logging
import os
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

REDACTED = "***"

_encode = msgspec.json.Encoder(enc_hook=repr).encode

_SECRET_NAME = re.compile(r"secret|token(?!s)|password|authorization|cookie|api_?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"sk-[A-Za-z0-9_-]{16,}|\b[rw]t-[a-z0-9]+-[a-z0-9]{40,}|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*|bearer +[^\s\"']+",
    re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Whether what has this name is to be seen by nobody. Counts of tokens are none."""
    return _SECRET_NAME.search(name) is not None


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Removes secrets by name and by shape, at any depth."""
    return {name: REDACTED if is_secret(name) else redacted(value) for name, value in event.items()}


def redacted(value: Any) -> Any:
    """A value without what is named or shaped like a secret."""
    if isinstance(value, str):
        return _SECRET_VALUE.sub(REDACTED, value).encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(k): REDACTED if is_secret(str(k)) else redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    return value


def _one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keeps each event one line on a terminal, but for a traceback: no value can pass for a line of its own."""
    for name, value in event.items():
        if isinstance(value, str) and name != "exception":
            event[name] = value.replace("\r", "\\r").replace("\n", "\\n")
    return event


_NOTHING: Mapping[str, Any] = MappingProxyType({})
_request: ContextVar[Mapping[str, Any]] = ContextVar("request", default=_NOTHING)


def note_request(scope: Mapping[str, Any]) -> None:
    """From here on, every line of this request tells whose it is."""
    _request.set(scope)


def whose() -> dict[str, str]:
    """Of which request and run this is: correlation_id, principal, execution_id, as far as they are known."""
    scope, known = _request.get(), structlog.contextvars.get_contextvars()
    if correlation_id := scope.get("correlation_id"):
        known.setdefault("correlation_id", correlation_id)
    if principal := scope.get("caller"):
        known.setdefault("principal", principal.subject)
    if execution_id := scope.get("path_params", _NOTHING).get("execution_id"):
        known.setdefault("execution_id", str(execution_id))
    return known


def _of_request(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {**whose(), **event}


def _render(_: WrappedLogger, __: str, event: EventDict) -> str:
    return _encode(event).decode()


class AccessLog:
    """One line a request. What it holds is known, so it passes by the processors: they cost as much as a query."""

    def __init__(self) -> None:
        self.json = False
        self.enabled = True

    def __call__(self, **fields: Any) -> None:
        if self.json and self.enabled:
            line = {"event": "request", "level": "info", "timestamp": datetime.now(UTC), **fields}
            sys.stdout.write(_encode(line).decode() + "\n")
            sys.stdout.flush()
        elif self.enabled:
            _log.info("request", **fields)


_log = structlog.get_logger()
log_request = AccessLog()


def configure_logging(*, level: str, json: bool) -> None:
    """Sets up structlog, and sends the standard library's records the same way."""
    log_request.json, log_request.enabled = json, getattr(logging, level.upper()) <= logging.INFO
    shared: list[Any] = [
        _of_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    last: list[Any] = [structlog.processors.format_exc_info, redact, *([_render] if json else [_one_line, console])]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_foreign, *last]))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for noisy in ("httpx", "httpx2", "openai", "anthropic", "ai_agent_queue", "alembic", "aiosqlite", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _foreign(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(_, __, event)
