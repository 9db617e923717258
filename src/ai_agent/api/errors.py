"""The one mapping from what was raised to what is answered. No path leads to the framework's own error page."""

import re
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.exceptions.http_exceptions import (
    MethodNotAllowedException,
    NotFoundException,
    RequestEntityTooLarge,
)

from ai_agent.api.answers import Answer
from ai_agent.api.guards import allowed
from ai_agent.api.headers import header
from ai_agent.domain import errors
from ai_agent.domain.errors import AIAgentError, FieldError, InvalidFields
from ai_agent.domain.fields import now
from ai_agent.observability.logging import is_secret, redacted

log = structlog.get_logger()

PROBLEM_JSON = "application/problem+json"
VALUE_LENGTH = 200

_MISSING = re.compile(r"Missing required \w+ parameter '([^']+)'")


class ErrorBody(msgspec.Struct):
    """The body of every error."""

    error: bool
    code: str
    message: str
    details: dict[str, Any] | None
    correlation_id: str | None
    timestamp: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
    path: str
    validation_errors: list[FieldError] | msgspec.UnsetType = msgspec.UNSET


class Problem(ErrorBody, kw_only=True):
    """The same error as RFC 9457 has it, with our members as extensions."""

    type: str
    title: str
    status: int
    detail: str
    instance: str


def answer_error(request: Request[Any, Any, Any], exception: Exception) -> Response[Any]:
    error = _as_ours(request, exception)
    if error.status >= 500 and not isinstance(exception, AIAgentError):
        log.error("request_crashed", exc_info=exception)
    body = error_body(error, request.scope)
    problem = PROBLEM_JSON in (header(request.scope, b"accept") or "")
    return Answer(
        _problem(body, error.status) if problem else body,
        status_code=error.status,
        headers=error.headers,
        media_type=PROBLEM_JSON if problem else None,
    )


def error_body(error: AIAgentError, scope: Any) -> ErrorBody:
    return ErrorBody(
        error=True,
        code=error.code,
        message=error.message,
        details=error.details,
        correlation_id=scope.get("correlation_id"),
        timestamp=now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        path=scope["path"],
        validation_errors=[shown(e) for e in error.errors] if isinstance(error, InvalidFields) else msgspec.UNSET,
    )


def _problem(body: ErrorBody, status: int) -> Problem:
    return Problem(
        **msgspec.structs.asdict(body),
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=body.message,
        instance=body.path,
    )


def _as_ours(request: Request[Any, Any, Any], exception: Exception) -> AIAgentError:
    if isinstance(exception, AIAgentError):
        return exception
    if isinstance(exception, NotFoundException):
        return errors.NotFound("There is nothing at this address")
    if isinstance(exception, MethodNotAllowedException):
        methods = ", ".join(sorted(_allowed(exception)))
        return errors.MethodNotAllowed(f"Use one of: {methods}", headers={"Allow": methods})
    if isinstance(exception, RequestEntityTooLarge):
        return errors.PayloadTooLarge("The request's body is too large")
    if isinstance(exception, ValidationException):
        return _invalid_parameters(request, exception)
    if isinstance(exception, HTTPException) and exception.status_code < 500:
        return errors.MalformedRequest("The request cannot be read")
    return errors.InternalError("Something went wrong here; the correlation id finds it in the log")


def _allowed(exception: MethodNotAllowedException) -> set[str]:
    return allowed({method.strip() for method in (exception.headers or {}).get("allow", "").split(",")})


def _invalid_parameters(request: Request[Any, Any, Any], exception: ValidationException) -> AIAgentError:
    given = {**request.path_params, **request.query_params}
    extra: list[dict[str, str]] = exception.extra if isinstance(exception.extra, list) else []
    if any(entry.get("key") == "data" for entry in extra):
        return errors.MalformedRequest("A JSON body is required")
    if missing := _MISSING.match(exception.detail):
        return InvalidFields([FieldError(missing[1], "Is required")])
    named = [(entry.get("key", ""), entry["message"]) for entry in extra]
    return InvalidFields([FieldError(name, message, given.get(name)) for name, message in named])


def shown(error: FieldError) -> FieldError:
    """The error with the start of the value, never a secret: a decoder's message may hold the value, too."""
    field, message, value = error.field[:VALUE_LENGTH], redacted(error.message), error.value
    if is_secret(field):
        return FieldError(field, message)
    value = redacted(value)
    if isinstance(value, dict | list):
        value = msgspec.json.encode(value).decode()
    elif not isinstance(value, int | float | None):
        value = str(value)
    return FieldError(field, message, value[:VALUE_LENGTH] if isinstance(value, str) else value)
