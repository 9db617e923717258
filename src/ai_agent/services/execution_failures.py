"""The error that ended a run, as the answer of a request that waited for it."""

import msgspec

from ai_agent.domain.errors import AIAgentError
from ai_agent.domain.executions import Execution, ExecutionError, ExecutionStatus

_STATUS_OF = {
    "external_service_error": 502,
    "timeout_error": 504,
    "service_unavailable": 503,
    "circuit_breaker_open": 503,
    "conflict": 409,
    "price_unknown": 422,
    "validation_error": 422,
}
"""Of the errors that end a run; those that name a bound of its own, `…_exceeded`, are 422."""


def failure(execution: Execution) -> AIAgentError:
    details = {"execution_id": str(execution.id)}
    if execution.status is ExecutionStatus.CANCELLED:
        return AnsweredError(409, "conflict", "The execution was cancelled", details)
    error = msgspec.json.decode(execution.error, type=ExecutionError | None)
    if error is None:
        return AnsweredError(500, "internal_error", "The execution ended without an answer", details)
    status = 422 if error.code.endswith("_exceeded") else _STATUS_OF.get(error.code, 500)
    if error.code == "external_service_error" and error.retryable:
        status = 503
    return AnsweredError(status, error.code, error.message, (error.details or {}) | details)


class AnsweredError(AIAgentError):
    """The error that ended a run, as the answer of the request that waited for it."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, str]):
        super().__init__(message, details=details, headers={"Retry-After": "5"} if status == 503 else None)
        self.status = status
        self.code = code
