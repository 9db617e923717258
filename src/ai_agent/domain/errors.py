"""The errors a client can meet. Raised where they are known, turned into a response once, in `api/errors.py`."""

import math
from typing import Annotated, Any

import msgspec

_SCALAR = msgspec.Meta(extra_json_schema={"type": ["string", "number", "boolean", "null"]})


class FieldError(msgspec.Struct, frozen=True):
    """One bad field of a request: its path in the client's own names, what is wrong, and the start of its value."""

    field: str
    message: str
    value: Annotated[Any, _SCALAR] = None


class AIAgentError(Exception):
    """Base of all errors that have a place in the contract; the class says status and code."""

    status: int = 500
    code: str = "internal_error"

    def __init__(self, message: str, *, details: dict[str, Any] | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.message = message
        self.details = details
        self.headers = headers or {}


class MalformedRequest(AIAgentError):
    status, code = 400, "malformed_request"


class AuthenticationError(AIAgentError):
    """`guessed` is False for what was good once: nobody guesses a signature."""

    guessed = True
    status, code = 401, "authentication_error"

    def __init__(self, message: str = "A valid API key or token is required"):
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class AuthorizationError(AIAgentError):
    status, code = 403, "authorization_error"


class NotFound(AIAgentError):
    status, code = 404, "not_found"


class MethodNotAllowed(AIAgentError):
    status, code = 405, "method_not_allowed"


class Conflict(AIAgentError):
    status, code = 409, "conflict"


class SessionBusy(AIAgentError):
    status, code = 409, "session_busy"


class IdempotencyInProgress(AIAgentError):
    status, code = 409, "idempotency_in_progress"

    def __init__(self, details: dict[str, Any] | None = None):
        message = "The first request with this Idempotency-Key is still being worked on"
        super().__init__(message, details=details, headers={"Retry-After": "1"})


class PreconditionFailed(AIAgentError):
    status, code = 412, "precondition_failed"


class PayloadTooLarge(AIAgentError):
    status, code = 413, "payload_too_large"


class UnsupportedMediaType(AIAgentError):
    status, code = 415, "unsupported_media_type"


class InvalidFields(AIAgentError):
    """The request can be read, and some of its fields are wrong: all of those that are known, at once."""

    status, code = 422, "validation_error"

    def __init__(self, errors: list[FieldError], message: str | None = None):
        names = ", ".join(error.field for error in errors[:5])
        super().__init__(message or f"Invalid: {names}")
        self.errors = errors


class IdempotencyKeyReused(AIAgentError):
    status, code = 422, "idempotency_key_reused"


class LimitExceeded(AIAgentError):
    """A run reached one of its own bounds: steps, tokens or cost."""

    status, code = 422, "limit_exceeded"


class MaxStepsExceeded(LimitExceeded):
    code = "max_steps_exceeded"


class MaxTotalTokensExceeded(LimitExceeded):
    code = "max_total_tokens_exceeded"


class MaxCostExceeded(LimitExceeded):
    code = "max_cost_exceeded"


class MaxToolCallsExceeded(LimitExceeded):
    code = "max_tool_calls_exceeded"


class PriceUnknown(LimitExceeded):
    """A run has a bound on its cost, and nobody told what its model costs."""

    code = "price_unknown"


class InternalError(AIAgentError):
    status, code = 500, "internal_error"


class ExternalServiceError(AIAgentError):
    """A model, tool or MCP server failed: 503 when trying again may help, else 502."""

    code = "external_service_error"

    def __init__(
        self,
        message: str,
        *,
        service_name: str,
        service_type: str = "model",
        retryable: bool = True,
        retry_after: float | None = None,
    ):
        details = {"service_name": service_name, "service_type": service_type, "is_retryable": retryable}
        wait = {"Retry-After": str(5 if retry_after is None else math.ceil(retry_after))}
        super().__init__(message, details=details, headers=wait if retryable else None)
        self.retryable = retryable
        self.retry_after = retry_after
        self.status = 503 if retryable else 502


class CircuitBreakerOpen(AIAgentError):
    """A model, tool or MCP server failed so often that it is left alone for a while."""

    status, code = 503, "circuit_breaker_open"

    def __init__(self, service_name: str, *, retry_after: int):
        message = f"{service_name} failed several times in a row and is not asked for now"
        super().__init__(message, details={"service_name": service_name}, headers={"Retry-After": str(retry_after)})


class ServiceUnavailable(AIAgentError):
    """The database or the queue is down."""

    status, code = 503, "service_unavailable"

    def __init__(self, message: str, *, retry_after: int = 1, details: dict[str, Any] | None = None):
        super().__init__(message, details=details, headers={"Retry-After": str(retry_after)})


class OperationTimeout(AIAgentError):
    """An operation took longer than `timeout_duration` seconds."""

    status, code = 504, "timeout_error"

    def __init__(self, message: str, *, timeout_duration: float):
        super().__init__(message, details={"timeout_duration": timeout_duration})


class ConfigurationError(Exception):
    """A setting or the surroundings are wrong: one line that names it, and a hint that says what to do."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint
