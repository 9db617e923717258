"""The server, as the terminal's commands find it and speak of it."""

import contextlib
from collections.abc import Iterator

from ai_agent.client.address import kept_key
from ai_agent.client.errors import ClientError, Closed, Refused, Unreachable
from ai_agent.domain.errors import ConfigurationError
from ai_agent.settings import Settings

_UNAUTHENTICATED = {401, 4401}


def local_key(settings: Settings) -> str:
    """The key of an embedded server; empty when there is none, which is enough where authentication is off."""
    return settings.bootstrap_api_key or kept_key(settings.directory) or ""


def told(error: ClientError) -> ConfigurationError:
    """One line and a hint."""
    message = f"{error.message} ({error.status})" if isinstance(error, Refused) else error.message
    return ConfigurationError(message, _hint(error))


def _hint(error: ClientError) -> str:
    if isinstance(error, Unreachable):
        return "Start it with: ai-agent serve"
    code = error.status if isinstance(error, Refused) else error.code if isinstance(error, Closed) else None
    return "Set AI_AGENT_API_KEY, or make a key with: ai-agent keys create" if code in _UNAUTHENTICATED else ""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns an error of the client into one line and a hint."""
    try:
        yield
    except ClientError as error:
        raise told(error) from error
