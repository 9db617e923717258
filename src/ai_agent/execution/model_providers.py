"""Model providers: where each is, with which key, and the client that speaks its protocol."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import httpx2
import msgspec
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider

from ai_agent.domain.agents import API_KEY, AgentContent, ModelConfig, Provider
from ai_agent.domain.errors import ExternalServiceError
from ai_agent.execution.local_model import CONTEXT_TOKENS
from ai_agent.execution.model_access import ModelAccess
from ai_agent.observability.traced_http import traced_client
from ai_agent.observability.tracing import is_on
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.outbound_http import CONNECT_SECONDS, guarded_client
from ai_agent.security.secret_box import UnreadableSecret
from ai_agent.settings import Settings

if TYPE_CHECKING:
    from pydantic_ai.providers.anthropic import AnthropicProvider

_ANTHROPIC = "pydantic_ai.models.anthropic"

_WHOLE = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
"""A stream that ends without saying why was cut, though its connection was closed properly."""

CLOUD_CONTEXT_TOKENS = 120_000
CLIENTS = 64
READ_SECONDS = 600.0
MAX_ANSWER_BYTES = 64 * 2**20

_SENT = frozenset(
    {
        "accept",
        "accept-encoding",
        "anthropic-version",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    }
)
"""The headers that an agent's own server gets, besides its key: none that the operator's environment adds."""


class Endpoint(msgspec.Struct, frozen=True):
    """`guard` is that of an address which a user named."""

    base_url: str | None
    api_key: str
    context_tokens: int
    guard: OutboundGuard | None = None


async def resolve_endpoint(agent: AgentContent, config: ModelConfig, access: ModelAccess) -> Endpoint:
    """Raises ExternalServiceError that names the missing setting, or says that the agent's key cannot be read."""
    if config.provider is Provider.LOCAL:
        local = await access.local_model.endpoint()
        return Endpoint(local.base_url, local.api_key, CONTEXT_TOKENS)
    own_key = _own_key(agent, config, access)
    if config.base_url is not None:
        # Never the operator's key: a base_url is not written without one of its own.
        return Endpoint(config.base_url, own_key or "none", CLOUD_CONTEXT_TOKENS, access.guard)
    if config.provider is Provider.ANTHROPIC:
        key = own_key or access.settings.anthropic_api_key or _missing("anthropic", "ANTHROPIC_API_KEY")
        return Endpoint(access.settings.anthropic_base_url, key, CLOUD_CONTEXT_TOKENS)
    return _openai_endpoint(own_key, access.settings)


def _openai_endpoint(own_key: str | None, settings: Settings) -> Endpoint:
    key = own_key or settings.openai_api_key
    if key is None and settings.openai_base_url is None:
        _missing("openai", "OPENAI_API_KEY")
    # Servers that speak the protocol on one's own network often want no key; the client wants one.
    return Endpoint(settings.openai_base_url, key or "none", CLOUD_CONTEXT_TOKENS)


def _own_key(agent: AgentContent, config: ModelConfig, access: ModelAccess) -> str | None:
    try:
        return access.secrets.open(agent.id, agent.secrets, API_KEY)
    except UnreadableSecret as error:
        message = "The agent's api_key was stored under another secret key: write it again, or name that key in "
        message += "AI_AGENT_SECRET_KEY_FALLBACKS"
        raise ExternalServiceError(message, service_name=str(config.provider), retryable=False) from error


def _missing(provider: str, setting: str) -> str:
    message = f"The provider {provider} is not configured; set {setting}"
    raise ExternalServiceError(message, service_name=provider, retryable=False)


async def build_model(provider: Provider | None, name: str, endpoint: Endpoint) -> Model:
    if provider is Provider.ANTHROPIC:
        # It costs a second of CPU and 30 MiB, which runs of others need not pay; and nobody waits for a thread's.
        await asyncio.to_thread(importlib.import_module, _ANTHROPIC)
        from pydantic_ai.models.anthropic import AnthropicModel

        return AnthropicModel(name, provider=_anthropic(endpoint))
    return OpenAIChatModel(name, provider=_openai(endpoint), profile=_WHOLE)


# A client with its connections and its TLS context for each address, not for each run: making one costs 20 ms of CPU.
@lru_cache(maxsize=CLIENTS)
def _anthropic(endpoint: Endpoint) -> "AnthropicProvider":
    from pydantic_ai.providers.anthropic import AnthropicProvider

    http = _http(endpoint, "x-api-key", endpoint.api_key)
    provider = AnthropicProvider(api_key=endpoint.api_key, base_url=endpoint.base_url, http_client=http)
    provider.client.max_retries = 0  # Retrying is ours.
    return provider


@lru_cache(maxsize=CLIENTS)
def _openai(endpoint: Endpoint) -> OpenAIProvider:
    http = _http(endpoint, "authorization", f"Bearer {endpoint.api_key}")
    provider = OpenAIProvider(api_key=endpoint.api_key, base_url=endpoint.base_url, http_client=http)
    provider.client.max_retries = 0  # Retrying is ours.
    return provider


def _http(endpoint: Endpoint, header: str, key: str) -> httpx2.AsyncClient | None:
    """The guarded client of an address that a user named; None leaves it to the provider's library."""
    if endpoint.guard is None:
        return traced_client(httpx2.AsyncClient(timeout=READ_SECONDS, follow_redirects=True)) if is_on() else None
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    http = guarded_client(endpoint.guard, max_bytes=MAX_ANSWER_BYTES, timeout=timeout)
    http.event_hooks = {"request": [_with_own_headers(header, key)], "response": []}
    return http


def _with_own_headers(header: str, key: str) -> Callable[[httpx2.Request], Awaitable[None]]:
    """The providers' libraries add what they find in the environment: organizations, gateways' keys."""

    async def keep(request: httpx2.Request) -> None:
        request.headers = httpx2.Headers({name: value for name, value in request.headers.items() if name in _SENT})
        request.headers[header] = key

    return keep
