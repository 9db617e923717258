"""One run of an agent: its row and a branch of messages go to the model, and what it says comes back piece by piece.

Built on pydantic-ai. Imported at a process's first run, never by the API.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec
from pydantic_ai import Agent as Loop
from pydantic_ai.exceptions import (
    AgentRunError,
    ModelHTTPError,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
    UserError,
)
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    UserPromptPart,
)
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits

from ai_agent.domain.agents import AgentContent, ModelConfig
from ai_agent.domain.errors import AIAgentError, ExternalServiceError, FieldError, InvalidFields, LimitExceeded
from ai_agent.domain.executions import Usage
from ai_agent.domain.messages import HistoryEntry, Role
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.model_providers import Endpoint, build_model, resolve_endpoint
from ai_agent.security.outbound import OutboundRefused

Say = Callable[[str, str], Awaitable[None]]

MAX_STEPS = 50
RESERVED_TOKENS = 512

_RETRYABLE = {408, 425, 429, 500, 502, 503, 504, 529}


class RunResult(msgspec.Struct, frozen=True):
    content: str
    usage: Usage
    context_truncated: bool


RunBranch = Callable[[AgentContent | None, Sequence[HistoryEntry], ModelAccess, Say], Coroutine[Any, Any, RunResult]]


async def run_branch(
    agent: AgentContent | None, branch: Sequence[HistoryEntry], access: ModelAccess, say: Say
) -> RunResult:
    """Answers the last message of a branch; `say(kind, text)` hears each piece, kind `token` or `reasoning`.

    Raises ExternalServiceError for what the provider does, LimitExceeded for the run's own bounds.
    """
    if agent is None or not branch:
        raise InvalidFields([FieldError("agent_id", "The agent or its message was deleted")])
    config = msgspec.json.decode(agent.model_config, type=ModelConfig)
    heard = False

    async def hear(kind: str, text: str) -> None:
        nonlocal heard
        heard = True
        await say(kind, text)

    endpoint = await resolve_endpoint(agent, config, access)
    try:
        return await _answer(agent, config, endpoint, branch, hear)
    except ExternalServiceError:
        # The local model may have died under the run, and be back at another address.
        moved = await resolve_endpoint(agent, config, access)
        if heard or moved == endpoint:
            raise
    return await _answer(agent, config, moved, branch, hear)


async def _answer(
    agent: AgentContent, config: ModelConfig, endpoint: Endpoint, branch: Sequence[HistoryEntry], say: Say
) -> RunResult:
    prompt = agent.system_prompt or ""
    kept = fitting(branch, prompt, endpoint.context_tokens - (config.max_tokens or RESERVED_TOKENS))
    loop = Loop(
        await build_model(config, endpoint), instructions=prompt or None, model_settings=_model_settings(config)
    )
    result = await _run(loop, config, kept, say)
    usage = result.usage
    return RunResult(
        result.output,
        Usage(usage.input_tokens or 0, usage.output_tokens or 0, usage.cache_read_tokens or 0),
        len(kept) < len(branch),
    )


async def _run(loop: Loop[Any, str], config: ModelConfig, branch: Sequence[HistoryEntry], say: Say) -> Any:
    async def hear(_: Any, events: AsyncIterable[Any]) -> None:
        async for event in events:
            if (piece := _piece(event)) is not None:
                await say(*piece)

    try:
        return await loop.run(
            branch[-1].content,
            message_history=_history(branch[:-1]),
            usage_limits=UsageLimits(
                request_limit=config.max_steps or MAX_STEPS, total_tokens_limit=config.max_total_tokens
            ),
            event_stream_handler=hear,
        )
    except Exception as error:
        if (known := _as_ours(error, str(config.provider))) is None:
            raise
        raise known from error


def _as_ours(error: Exception, provider: str) -> AIAgentError | None:
    """The domain's error for what a provider or its library does, None for a fault of ours."""
    failed = partial(ExternalServiceError, service_name=provider)
    if (refusal := _refusal(error)) is not None:
        return failed(f"The model provider cannot be used. {refusal}", retryable=False)
    if isinstance(error, UsageLimitExceeded):
        return LimitExceeded("The run reached its limit of steps or tokens")
    if (status := _status(error)) is not None:
        return failed(f"The model provider answered {status}", retryable=status in _RETRYABLE)
    if isinstance(error, UnexpectedModelBehavior):
        return failed("The model provider's answer cannot be understood", retryable=False)
    if isinstance(error, UserError):
        return failed("The model is not configured", retryable=False)
    if isinstance(error, AgentRunError):
        return failed("The model provider failed")
    return failed("The connection to the model provider broke") if _from_provider(error) else None


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
    return type(error).__module__.split(".")[0] in {
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "openai",
        "anthropic",
        "json",
    }


def _piece(event: Any) -> tuple[str, str] | None:
    # The first token is in the part's start, not in a delta.
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart | ThinkingPart):
        kind = "token" if isinstance(event.part, TextPart) else "reasoning"
        return (kind, event.part.content) if event.part.content else None
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta | ThinkingPartDelta):
        kind = "token" if isinstance(event.delta, TextPartDelta) else "reasoning"
        return (kind, event.delta.content_delta) if event.delta.content_delta else None
    return None


def _history(branch: Sequence[HistoryEntry]) -> list[ModelMessage]:
    history: list[ModelMessage] = []
    for entry in branch:
        if entry.role == Role.ASSISTANT:
            history.append(ModelResponse(parts=[TextPart(entry.content)]))
        elif entry.role == Role.SYSTEM:
            history.append(ModelRequest(parts=[SystemPromptPart(entry.content)]))
        else:
            history.append(ModelRequest(parts=[UserPromptPart(entry.content)]))
    return history


def _model_settings(config: ModelConfig) -> ModelSettings:
    given: dict[str, Any] = {
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "top_p": config.top_p,
        "timeout": config.timeout_seconds,
    }
    settings: ModelSettings = ModelSettings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[typeddict-item]  # the names are its own
    return settings


def fitting(branch: Sequence[HistoryEntry], prompt: str, tokens: int) -> Sequence[HistoryEntry]:
    """The newest part of the branch that fits the window. The new message itself is always kept."""
    left = tokens - _tokens(prompt)
    for index in range(len(branch) - 1, -1, -1):
        left -= _tokens(branch[index].content)
        if left < 0:
            return branch[min(index + 1, len(branch) - 1) :]
    return branch


def _tokens(text: str) -> int:
    """A cautious estimate: three bytes of UTF-8 a token, and the frame of a message."""
    return len(text.encode()) // 3 + 8
