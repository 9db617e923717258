"""The errors that operations share: components, referenced by each operation that can answer so."""

from http import HTTPStatus
from typing import Any, NamedTuple

from ai_agent.api.answers import JSON
from ai_agent.api.errors import PROBLEM_JSON, ErrorBody, Problem
from ai_agent.api.openapi.examples import EXECUTION, SESSION


class ErrorResponse(NamedTuple):
    name: str
    description: str
    code: str
    message: str
    details: dict[str, Any] | None = None
    headers: tuple[str, ...] = ()


LIMITS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit-Policy", "RateLimit")
"""The headers of an answer that was counted."""

ERRORS = {
    400: ErrorResponse(
        "BadRequestError",
        "`malformed_request`: the body is neither JSON nor MessagePack, or a header cannot be read",
        "malformed_request",
        "The body is not JSON: JSON is malformed: expected '\"' (byte 1)",
    ),
    401: ErrorResponse(
        "UnauthorizedError",
        "`authentication_error`: no credentials, or bad ones",
        "authentication_error",
        "A valid API key or token is required",
        headers=("WWW-Authenticate",),
    ),
    403: ErrorResponse(
        "ForbiddenError",
        "`authorization_error`: the caller is known and lacks the scope",
        "authorization_error",
        "This needs the scope sessions:write",
        {"scope": "sessions:write"},
    ),
    404: ErrorResponse(
        "NotFoundError",
        "`not_found`: there is none of this id, or it is another owner's",
        "not_found",
        "Session not found",
    ),
    409: ErrorResponse(
        "ConflictError",
        "`conflict`: the state forbids it, or a name is taken; `session_busy`: the session has a live execution; "
        "`idempotency_in_progress`: the first request with this `Idempotency-Key` is still being worked on",
        "session_busy",
        "The session has a live execution; wait for its end or cancel it",
        headers=("Retry-After",),
    ),
    412: ErrorResponse(
        "PreconditionFailedError",
        "`precondition_failed`: the resource has changed since the state that `If-Match` names",
        "precondition_failed",
        "The resource has changed since; get it again",
    ),
    413: ErrorResponse(
        "PayloadTooLargeError",
        "`payload_too_large`: the body is larger than 2 MiB",
        "payload_too_large",
        "The request's body is too large",
    ),
    415: ErrorResponse(
        "UnsupportedMediaTypeError",
        "`unsupported_media_type`: the body is neither JSON nor MessagePack",
        "unsupported_media_type",
        "text/plain is not understood; send application/json",
    ),
    422: ErrorResponse(
        "ValidationError",
        "`validation_error`: some fields or parameters are wrong, each named in `validation_errors`; "
        "`idempotency_key_reused`: the key came with another body before; "
        "`max_steps_exceeded` and others that end so: a run reached a bound of its own",
        "validation_error",
        "Invalid: title",
    ),
    429: ErrorResponse(
        "RateLimitError",
        "`rate_limit_error`: too many requests; `Retry-After` says when to come again",
        "rate_limit_error",
        "Too many requests: 10 per 1 minute",
        {"limit": "10 per 1 minute", "scope": "session_create", "retry_after": 23},
        ("Retry-After",),
    ),
    500: ErrorResponse(
        "InternalServerError",
        "`internal_error`: a fault of the server; the correlation id finds it in the log",
        "internal_error",
        "Something went wrong here; the correlation id finds it in the log",
    ),
    502: ErrorResponse(
        "BadGatewayError",
        "`external_service_error`: a model failed for good",
        "external_service_error",
        "The model refused the request",
        {"service_name": "openai", "service_type": "model", "is_retryable": False, "execution_id": EXECUTION},
    ),
    503: ErrorResponse(
        "ServiceUnavailableError",
        "`service_unavailable`: the database or the queue is down, or the server stops; "
        "`external_service_error`: a model failed, and trying again may help",
        "service_unavailable",
        "The database is away",
        headers=("Retry-After",),
    ),
    504: ErrorResponse(
        "GatewayTimeoutError",
        "`timeout_error`: the run took longer than its `timeout_seconds`",
        "timeout_error",
        "The run took longer than 60 s",
        {"timeout_duration": 60.0, "execution_id": EXECUTION},
    ),
}

HEADERS = {
    "X-Correlation-ID": ("string", "Finds the request in the server's log", "01930e5c7a1070008000000000000007"),
    "ETag": ("string", "The state of the resource, for `If-Match` and `If-None-Match`", '"3"'),
    "Location": ("string", "Where the execution is found", f"/api/v1/executions/{EXECUTION}"),
    "Content-Location": ("string", "The execution that is streamed", f"/api/v1/executions/{EXECUTION}"),
    "Link": ("string", "The next page (RFC 8288)", '</api/v1/sessions?limit=20&cursor=AbC>; rel="next"'),
    "Idempotency-Replayed": ("string", "`true` when this is the first answer to the `Idempotency-Key` again", "true"),
    "Retry-After": ("integer", "Whole seconds until it is worth trying again", 23),
    "WWW-Authenticate": ("string", "How to authenticate", "Bearer"),
    "X-RateLimit-Limit": ("integer", "Requests that the tightest limit allows", 10),
    "X-RateLimit-Remaining": ("integer", "Requests that are left of it", 0),
    "X-RateLimit-Reset": ("integer", "When units of it come back, in seconds since the epoch", 1767268823),
    "RateLimit-Policy": ("string", "All limits of the request, as the IETF draft has them", '"read";q=1000;w=60'),
    "RateLimit": ("string", "What is left of the tightest, and in how many seconds more", '"read";r=999;t=60'),
}


def headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def header_components() -> dict[str, Any]:
    return {
        name: {"description": description, "schema": {"type": kind}, "example": example}
        for name, (kind, description, example) in HEADERS.items()
    }


def error_reference(status: int) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{ERRORS[status].name}"}


def error_components() -> dict[str, Any]:
    return {error.name: _error(status, error) for status, error in ERRORS.items()}


def _error(status: int, error: ErrorResponse) -> dict[str, Any]:
    example = _example(status, error)
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "instance": example["path"],
    }
    return {
        "description": error.description,
        "headers": headers(*dict.fromkeys(["X-Correlation-ID", *LIMITS, *error.headers])),
        "content": {
            JSON: {"schema": _reference(ErrorBody), "example": example},
            PROBLEM_JSON: {"schema": _reference(Problem), "example": problem | example},
        },
    }


def _reference(struct: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def _example(status: int, error: ErrorResponse) -> dict[str, Any]:
    invalid = [{"field": "title", "message": "Expected `str` of length <= 500", "value": "Billing…"}]
    return {
        "error": True,
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "correlation_id": "01930e5c7a1070008000000000000007",
        "timestamp": "2026-01-01T12:00:00.000000Z",
        "path": f"/api/v1/sessions/{SESSION}",
    } | ({"validation_errors": invalid} if status == 422 else {})
