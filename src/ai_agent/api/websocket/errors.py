"""What a socket is told of what was wrong: the codes of the API, and those that only a conversation has."""

from typing import Any

import structlog
from msgspec import UNSET, to_builtins

from ai_agent.api.errors import shown
from ai_agent.domain.errors import AIAgentError, InternalError, InvalidFields
from ai_agent.domain.frames import CloseCode, ErrorFrame

log = structlog.get_logger()

_MAY_HELP = {429, 503, 504}
"""Statuses of what may go well a little later."""


class FrameError(AIAgentError):
    """A frame that is refused; `field` says what of it is wrong, `id` is that of the frame, where it has one."""

    status, code = 400, "bad_frame"

    def __init__(self, message: str, *, field: str = "", frame_id: int | None = None):
        super().__init__(message)
        self.field = field
        self.id = frame_id


class BadFrame(FrameError):
    """Not decodable, no map, or wrong types."""


class Unsupported(FrameError):
    """Something that we do not know, or not yet."""

    code = "unsupported"


class BadChannel(AIAgentError):
    status, code = 400, "bad_channel"


class NotConnected(AIAgentError):
    status, code = 401, "not_connected"


class AlreadyConnected(AIAgentError):
    status, code = 409, "already_connected"


class AlreadySubscribed(AIAgentError):
    status, code = 409, "already_subscribed"


class LimitReached(AIAgentError):
    status, code = 409, "limit"


class TooManyCommands(AIAgentError):
    status, code = 429, "rate_limit_error"

    def __init__(self, retry_after_ms: int):
        super().__init__("Too many commands")
        self.retry_after_ms = retry_after_ms


_CLOSES = {
    401: CloseCode.UNAUTHENTICATED,
    403: CloseCode.FORBIDDEN,
    409: CloseCode.CONNECTION_LIMIT,
    429: CloseCode.RATE_LIMIT,
    503: CloseCode.UNAVAILABLE,
}


def closed_with(error: AIAgentError) -> CloseCode:
    """What a socket is closed with when its client is told this error before anything else."""
    return _CLOSES.get(error.status, CloseCode.INTERNAL)


def error_frame(
    error: Exception, correlation_id: str, *, frame_id: int | None = None, channel: str | None = None
) -> ErrorFrame:
    """What is not ours is logged, and told as an internal error."""
    if not isinstance(error, AIAgentError):
        log.error("socket_command_crashed", exc_info=error)
        error = InternalError("Something went wrong here; the correlation id finds it in the log")
    return ErrorFrame(
        id=UNSET if frame_id is None else frame_id,
        code=error.code,
        status=error.status,
        message=error.message,
        retryable=error.status in _MAY_HELP,
        ch=channel or UNSET,
        field=_field(error) or UNSET,
        details=_details(error) or UNSET,
        retry_after_ms=_retry_after_ms(error) or UNSET,
        correlation_id=correlation_id if error.status >= 500 else UNSET,
    )


def _field(error: AIAgentError) -> str:
    if isinstance(error, InvalidFields):
        return error.errors[0].field
    return error.field if isinstance(error, FrameError) else ""


def _details(error: AIAgentError) -> dict[str, Any] | None:
    if isinstance(error, InvalidFields):
        return {"validation_errors": [to_builtins(shown(one)) for one in error.errors]}
    return error.details


def _retry_after_ms(error: AIAgentError) -> int:
    if isinstance(error, TooManyCommands):
        return error.retry_after_ms
    return int(error.headers.get("Retry-After", 0)) * 1000
