"""What a provider or its library does wrong, as the contract has it: never the provider's own words."""

from functools import partial

import httpx2
from pydantic_ai.exceptions import (
    AgentRunError,
    ModelAPIError,
    ModelHTTPError,
    ModelTimeoutError,
    UnexpectedModelBehavior,
    UserError,
)

from ai_agent.domain.errors import AIAgentError, ExternalServiceError
from ai_agent.security.outbound import OutboundRefused

RETRYABLE = {408, 425, 429, 500, 502, 503, 504, 529}

_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "json"}


def as_ours(error: Exception, provider: str) -> AIAgentError | None:
    """The domain's error for what a provider or its library does, None for a fault of ours."""
    failed = partial(ExternalServiceError, service_name=provider)
    if (refusal := _refusal(error)) is not None:
        return failed(f"The model provider cannot be used. {refusal}", retryable=False)
    if (status := _status(error)) is not None:
        retryable, wait = status in RETRYABLE, _retry_after(error)
        return failed(f"The model provider answered {status}", retryable=retryable, retry_after=wait)
    if timed_out(error):
        return failed("The model provider did not answer in time")
    if isinstance(error, UnexpectedModelBehavior):
        return failed("The model provider's answer cannot be understood", retryable=False)
    if isinstance(error, UserError):
        return failed("The model is not configured", retryable=False)
    if isinstance(error, AgentRunError):
        return failed("The model provider failed")
    return failed("The connection to the model provider broke") if _from_provider(error) else None


def timed_out(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ModelTimeoutError | httpx2.TimeoutException):
        error = error.__cause__
    return error is not None


def is_rate_limit(error: Exception) -> bool:
    return _status(error) == 429


def _retry_after(error: Exception) -> float | None:
    """Seconds that the provider wants to be left alone."""
    return error.retry_after if isinstance(error, ModelAPIError) else None


def _status(error: Exception) -> int | None:
    """The provider's status; that of a redirect, which is followed nowhere, only its own library tells."""
    told = error if isinstance(error, ModelHTTPError) else error.__cause__
    return getattr(told, "status_code", None) if isinstance(error, AgentRunError) else None


def _refusal(error: BaseException | None) -> OutboundRefused | None:
    """What the outbound guard said, under all that the libraries wrapped around it."""
    while error is not None and not isinstance(error, OutboundRefused):
        error = error.__cause__ or error.__context__
    return error


def _from_provider(error: Exception) -> bool:
    """The SDKs let errors of their HTTP client and JSON decoder through when a stream breaks."""
    return type(error).__module__.split(".")[0] in _LIBRARIES
