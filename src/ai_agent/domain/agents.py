"""An agent: a model, its instructions and its tools, under a name. The canonical resource for newcomers."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ai_agent.domain.errors import FieldError
from ai_agent.domain.executions import OnBusy
from ai_agent.domain.fields import (
    Description,
    Holds,
    Input,
    JsonObject,
    Name,
    StoredJson,
    StoredObject,
    SystemPrompt,
    check_metadata,
)
from ai_agent.domain.pages import Filter, Page
from ai_agent.domain.resources import Resource


class Provider(StrEnum):
    """`openai` is also everything that speaks its protocol at the operator's `OPENAI_BASE_URL`."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    LOCAL = "local"


class AgentStatus(StrEnum):
    """Processing or waiting while an execution is, else how the last one ended."""

    IDLE = "idle"
    PROCESSING = "processing"
    WAITING = "waiting"
    ERROR = "error"
    COMPLETED = "completed"


API_KEY = "model_config.api_key"
"""The field of an agent that is a secret."""

ModelName = Annotated[str, Meta(min_length=1, max_length=255)]


class ModelConfig(Input, forbid_unknown_fields=True, omit_defaults=True):
    """Which model answers, where, and its bounds. Tokens are the provider's own, times are seconds, costs US dollars.

    `on_busy` is what executions do that ask for nothing else where the session is busy. `fallback_models` are of the
    same provider. `api_key` is write-only; a `base_url` of one's own needs one.
    """

    provider: Provider | None = None
    model: ModelName | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    base_url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None
    fallback_models: Annotated[list[ModelName], Meta(max_length=8)] | None = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] | None = None
    max_steps: Annotated[int, Meta(ge=1, le=1000)] | None = None
    max_total_tokens: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    max_cost: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    on_busy: OnBusy | None = None
    # Visible ASCII: it becomes a header.
    api_key: Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$")] | None = None

    def check(self) -> list[FieldError]:
        if self.base_url is None:
            return []
        if self.provider is Provider.LOCAL:
            return [FieldError("base_url", "The local model has no address of its own")]
        if self.api_key is None:
            return [FieldError("api_key", "Is required with a base_url: the server's own key is not sent there")]
        return []

    @property
    def destination(self) -> str | None:
        """Where the api_key is sent to: a key that is kept may not follow to another place."""
        return self.base_url or self.provider


ToolNames = Annotated[list[Name], Meta(max_length=128)]


class Agent(Resource):
    """A model, its instructions and its tools, under a name."""

    id: UUID
    name: str
    description: str | None
    system_prompt: str | None
    model_config: Annotated[StoredJson, Holds(ModelConfig)]
    tools: Annotated[StoredJson, Holds(list[str])]
    status: AgentStatus
    version: int
    metadata: StoredObject
    created_at: datetime
    updated_at: datetime


class AgentPage(Page):
    """Agents of a list."""

    items: list[Agent]


class AgentContent(Resource):
    """All of an agent that is written, as a version keeps it. `secrets` are sealed, and never leave the server."""

    id: UUID
    name: str
    description: str | None
    system_prompt: str | None
    model_config: StoredJson
    tools: StoredJson
    metadata: StoredJson
    secrets: StoredJson


class AgentVersion(msgspec.Struct):
    """What an agent was from `created_at` to the next version."""

    agent_id: UUID
    version: int
    name: str
    description: str | None
    system_prompt: str | None
    model_config: Annotated[StoredJson, Holds(ModelConfig)]
    tools: Annotated[StoredJson, Holds(list[str])]
    metadata: StoredObject
    created_at: datetime


class AgentVersionPage(Page):
    """Versions of an agent."""

    items: list[AgentVersion]


class CreateAgent(Input):
    """A new agent. Only the name has no default."""

    name: Name
    description: Description | None = None
    system_prompt: SystemPrompt | None = None
    model_config: ModelConfig = msgspec.field(default_factory=ModelConfig)
    tools: ToolNames = []
    metadata: JsonObject = {}

    def check(self) -> list[FieldError]:
        self.name = self.name.strip()
        blank = [] if self.name else [FieldError("name", "Must not be blank", self.name)]
        return blank + check_metadata(self.metadata)


class ReplaceAgent(CreateAgent):
    """PUT: what is absent goes back to its default."""


class PatchAgent(Input):
    """JSON Merge Patch: what is absent stays, null clears."""

    name: Name | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    system_prompt: SystemPrompt | None | UnsetType = UNSET
    model_config: Annotated[dict[str, Any], Holds(ModelConfig)] | None | UnsetType = UNSET
    tools: ToolNames | None | UnsetType = UNSET
    metadata: JsonObject | None | UnsetType = UNSET

    def check(self) -> list[FieldError]:
        blank: list[FieldError] = []
        if isinstance(self.name, str):
            self.name = self.name.strip()
            blank = [] if self.name else [FieldError("name", "Must not be blank", self.name)]
        return blank + check_metadata(self.metadata)


class AgentFilter(Filter, frozen=True, kw_only=True):
    status: AgentStatus | None = None
    search: str | None = None


class AgentVersionFilter(Filter, frozen=True, kw_only=True):
    agent_id: UUID
