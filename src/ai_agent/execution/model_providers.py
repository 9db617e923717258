"""Model providers: where each is, with which key, and the client that speaks its protocol."""

from functools import lru_cache

import msgspec
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from ai_agent.domain.agents import ModelConfig, Provider
from ai_agent.domain.errors import ExternalServiceError
from ai_agent.execution.local_model import CONTEXT_TOKENS, LocalModel
from ai_agent.settings import Settings

CLOUD_CONTEXT_TOKENS = 120_000
CLIENTS = 64


class Endpoint(msgspec.Struct, frozen=True):
    base_url: str | None
    api_key: str
    context_tokens: int


async def resolve_endpoint(config: ModelConfig, settings: Settings, local_model: LocalModel) -> Endpoint:
    """Raises ExternalServiceError that names the missing setting."""
    if config.provider is Provider.LOCAL:
        local = await local_model.endpoint()
        return Endpoint(local.base_url, local.api_key, CONTEXT_TOKENS)
    if config.provider is Provider.ANTHROPIC:
        key = settings.anthropic_api_key or _missing("anthropic", "ANTHROPIC_API_KEY")
        return Endpoint(settings.anthropic_base_url, key, CLOUD_CONTEXT_TOKENS)
    if settings.openai_api_key is None and settings.openai_base_url is None:
        _missing("openai", "OPENAI_API_KEY")
    # Servers that speak the protocol on one's own network often want no key; the client wants one.
    return Endpoint(settings.openai_base_url, settings.openai_api_key or "none", CLOUD_CONTEXT_TOKENS)


def _missing(provider: str, setting: str) -> str:
    message = f"The provider {provider} is not configured; set {setting}"
    raise ExternalServiceError(message, service_name=provider, retryable=False)


def build_model(config: ModelConfig, endpoint: Endpoint) -> Model:
    name = config.model or ""
    if config.provider is Provider.ANTHROPIC:
        return AnthropicModel(name, provider=_anthropic(endpoint))
    return OpenAIChatModel(name, provider=_openai(endpoint))


# A client with its connections and its TLS context for each address, not for each run: making one costs 20 ms of CPU.
@lru_cache(maxsize=CLIENTS)
def _anthropic(endpoint: Endpoint) -> AnthropicProvider:
    return AnthropicProvider(api_key=endpoint.api_key, base_url=endpoint.base_url)


@lru_cache(maxsize=CLIENTS)
def _openai(endpoint: Endpoint) -> OpenAIProvider:
    return OpenAIProvider(api_key=endpoint.api_key, base_url=endpoint.base_url)
