"""The one mapping from what was raised to what is answered. No path leads to the framework's own error page."""

from typing import Any

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from litestar.exceptions.http_exceptions import (
    MethodNotAllowedException,
    NotFoundException,
    RequestEntityTooLarge,
)

from ai_agent.domain import errors
from ai_agent.domain.errors import AIAgentError, FieldError, InvalidFields
from ai_agent.domain.fields import now

log = structlog.get_logger()

PROBLEM_JSON = "application/problem+json"


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """The body of every error."""

    code: str
    message: str
    details: dict[str, Any] | None
    correlation_id: str | None
    timestamp: str
    path: str
    error: bool = msgspec.field(default_factory=lambda: True)
    validation_errors: list[FieldError] | msgspec.UnsetType = msgspec.UNSET


def answer_error(request: Request[Any, Any, Any], exception: Exception) -> Response[Any]:
    error = as_ai_agent_error(exception)
    if error.status >= 500 and not isinstance(exception, AIAgentError):
        log.error("request_crashed", exc_info=exception)
    body = error_body(error, request.scope["path"], request.scope.get("correlation_id"))
    problem = PROBLEM_JSON in request.headers.get("accept", "")
    return Response(
        content=_problem(body, error.status) if problem else body,
        status_code=error.status,
        headers=error.headers,
        media_type=PROBLEM_JSON if problem else MediaType.JSON,
    )


def error_body(error: AIAgentError, path: str, correlation_id: object) -> ErrorBody:
    return ErrorBody(
        code=error.code,
        message=error.message,
        details=error.details,
        correlation_id=str(correlation_id) if correlation_id else None,
        timestamp=now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        path=path,
        validation_errors=error.errors if isinstance(error, InvalidFields) else msgspec.UNSET,
    )


def _problem(body: ErrorBody, status: int) -> dict[str, Any]:
    """RFC 9457, with our members as extensions."""
    standard = {
        "type": "about:blank",
        "title": body.code,
        "status": status,
        "detail": body.message,
        "instance": body.path,
    }
    extensions: dict[str, Any] = msgspec.to_builtins(body)
    return standard | extensions


def as_ai_agent_error(exception: Exception) -> AIAgentError:
    if isinstance(exception, AIAgentError):
        return exception
    if isinstance(exception, NotFoundException):
        return errors.NotFound("There is nothing at this address")
    if isinstance(exception, MethodNotAllowedException):
        allowed = (exception.headers or {}).get("allow") or ""
        return errors.MethodNotAllowed(f"Use one of: {allowed}", headers={"Allow": allowed})
    if isinstance(exception, RequestEntityTooLarge):
        return errors.PayloadTooLarge("The request's body is too large")
    if isinstance(exception, ValidationException):
        return InvalidFields(_parameter_errors(exception))
    if isinstance(exception, TimeoutError):
        return errors.ServiceUnavailable("The database did not answer in time")
    if isinstance(exception, SerializationException) or (
        isinstance(exception, HTTPException) and exception.status_code < 500
    ):
        return errors.MalformedRequest("The request cannot be read")
    return errors.InternalError("Something went wrong here; the correlation id finds it in the log")


def _parameter_errors(exception: ValidationException) -> list[FieldError]:
    extra = exception.extra if isinstance(exception.extra, list) else []
    found = [FieldError(str(e.get("key", "")), str(e.get("message", "")), None) for e in extra]
    return found or [FieldError("", "Is not valid")]
