"""What the first start makes, so that the first request can be a chat: an admin key and an agent."""

from ai_agent.domain.agents import CreateAgent, ModelConfig, Provider
from ai_agent.domain.api_keys import ADMIN_KEY_FILE, CreateApiKey
from ai_agent.domain.audit import Actor
from ai_agent.domain.errors import ConfigurationError, Conflict
from ai_agent.domain.identity import BUILT_IN, OPERATOR, Scope
from ai_agent.execution import local_model
from ai_agent.execution.model_reach import NO_MODEL, available_models
from ai_agent.security.api_keys import well_formed
from ai_agent.services.agents import AgentService
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.settings import Auth, Settings, kept_secret
from ai_agent.storage.engine import sqlite_path

ASSISTANT = "assistant"
SERVER = Actor(f"{BUILT_IN}server")

_PROMPT = "You are a helpful assistant. Answer briefly and in plain words."


async def first_start(settings: Settings, keys: ApiKeyService, agents: AgentService) -> None:
    """Makes the admin key and the agent `assistant` where they are missing. Raises ConfigurationError."""
    if settings.bootstrap_api_key:
        if not well_formed(settings.bootstrap_api_key):
            hint = "Make one with: ai-agent keys generate"
            raise ConfigurationError("AI_AGENT_BOOTSTRAP_API_KEY is not a well-formed key", hint)
        await keys.ensure(settings.bootstrap_api_key, SERVER)
    elif settings.auth is Auth.REQUIRED and not await keys.any():
        await _make_admin_key(settings, keys)
    if local_model.installed():
        await _make_assistant(agents)
    if not available_models(settings):
        print(f"No agent can run yet: there is no model. {NO_MODEL}", flush=True)  # noqa: T201  # for who starts it


async def _make_admin_key(settings: Settings, keys: ApiKeyService) -> None:
    made = await keys.create(OPERATOR, SERVER, CreateApiKey("admin", [Scope.ADMIN]))
    if sqlite_path(settings.database) is not None:
        # Beside its database, for `ai-agent chat` on the same machine.
        file = settings.directory / ADMIN_KEY_FILE
        file.unlink(missing_ok=True)
        kept_secret(file, lambda: made.key)
    print(f"\nAdmin API key, shown this once:\n\n  {made.key}\n", flush=True)  # noqa: T201  # the one secret we print


async def _make_assistant(agents: AgentService) -> None:
    config = ModelConfig(
        provider=Provider.LOCAL, model=local_model.MODEL_NAME, temperature=0.2, top_p=0.9, max_tokens=512
    )
    wanted = CreateAgent(
        name=ASSISTANT, description="A small model on this machine", system_prompt=_PROMPT, model_config=config
    )
    try:
        await agents.create(OPERATOR, wanted)
    except Conflict:
        return
