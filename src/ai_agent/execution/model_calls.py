"""Asking models: retries, fallbacks and breakers around one streamed request."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from ai_agent.domain.agents import AgentContent, ModelConfig, Provider
from ai_agent.domain.errors import AIAgentError, CircuitBreakerOpen, ExternalServiceError, PriceUnknown
from ai_agent.domain.executions import Usage
from ai_agent.execution.breaker import Breaker
from ai_agent.execution.heard import Heard
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.model_errors import as_ours, is_rate_limit, timed_out
from ai_agent.execution.model_providers import Endpoint, build_model, resolve_endpoint
from ai_agent.observability import tracing
from ai_agent.observability.model_metrics import ModelCall
from ai_agent.security.outbound_http import CONNECT_SECONDS

TRIES = 3
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
IDLE_SECONDS = 180.0


class Question(msgspec.Struct, frozen=True):
    instructions: str
    messages: Sequence[ModelMessage]
    tools: Sequence[ToolDefinition]


class ModelCalls:
    """The models of a run: its agent's own, and then the fallbacks in order."""

    def __init__(self, agent: AgentContent, config: ModelConfig, access: ModelAccess):
        self._agent = agent
        self._config = config
        self._access = access
        self._settings = _model_settings(config)
        self.provider = config.provider or Provider.OPENAI
        self.model = config.model or ""
        """The one that was asked last."""
        self._base_url: str | None = None

    async def endpoint(self) -> Endpoint:
        # Looked up for each request: the local model may have died, and be back at another address.
        return await resolve_endpoint(self._agent, self._config, self._access)

    def cost(self, usage: Usage) -> float | None:
        """US dollars for tokens of the model that was asked last, None when nobody told its price."""
        return self._access.prices.cost(self.provider, self.model, self._base_url, usage)

    def _check_price(self) -> None:
        if self._config.max_cost is not None and self.cost(Usage()) is None:
            name = f"{self.provider}/{self.model}"
            raise PriceUnknown(
                f"The run has a max_cost, and nobody told the price of {name}: set AI_AGENT_MODEL_PRICES"
            )

    async def ask(self, question: Question, heard: Heard) -> ModelResponse:
        """The first model's answer that is there. Raises ExternalServiceError and CircuitBreakerOpen."""
        failure: AIAgentError | None = None
        for name in (self._config.model or "", *(self._config.fallback_models or [])):
            try:
                return await self._ask(name, question, heard)
            except (ExternalServiceError, CircuitBreakerOpen) as error:
                if heard.began or not _retryable(error):
                    raise
                failure = error
        assert failure is not None  # noqa: S101  # the loop has at least one model
        raise failure

    async def _ask(self, name: str, question: Question, heard: Heard) -> ModelResponse:
        self._access.retries.requested()
        failure: ExternalServiceError | None = None
        for number in range(1, TRIES + 1):
            try:
                return await self._try(name, question, heard)
            except CircuitBreakerOpen:
                if failure is None:
                    raise
                break  # What opened it says more.
            except ExternalServiceError as error:
                failure, pause = error, _pause(number, error)
                if heard.began or pause is None or not self._access.retries.take():
                    break
            await asyncio.sleep(pause)
        assert failure is not None  # noqa: S101  # the loop ends with one
        raise failure

    async def _try(self, name: str, question: Question, heard: Heard) -> ModelResponse:
        endpoint = await self.endpoint()
        self.model, self._base_url = name, endpoint.base_url
        self._check_price()
        breaker = self._access.breakers.of(str(self.provider), endpoint.base_url, name)
        breaker.admit()
        call = ModelCall(str(self.provider), name)
        about = {"gen_ai.provider.name": str(self.provider), "gen_ai.request.model": name}
        with tracing.span(f"chat {name}", {"gen_ai.operation.name": "chat", **about}, kind="CLIENT") as current:
            response = await self._spoken(name, endpoint, question, heard, breaker, call)
            usage = usage_of(response) or Usage()
            told = {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}
            tracing.told(current, told)
        call.completed(usage)
        return response

    async def _spoken(
        self, name: str, endpoint: Endpoint, question: Question, heard: Heard, breaker: Breaker, call: ModelCall
    ) -> ModelResponse:
        """The answer of one request, which the breaker hears of."""
        try:
            model = await build_model(self._config.provider, name, endpoint)
            response = await self._stream(model, question, heard, breaker, call)
        except Exception as error:
            call.failed()
            if (ours := self._judged(error, breaker)) is error or ours is None:
                raise
            raise ours from error
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        return response

    async def _stream(
        self, model: Model, question: Question, heard: Heard, breaker: Breaker, call: ModelCall
    ) -> ModelResponse:
        told = [InstructionPart(content=question.instructions)] if question.instructions else []
        parameters = ModelRequestParameters(function_tools=list(question.tools), instruction_parts=told)
        async with model_request_stream(
            model, question.messages, model_settings=self._settings, model_request_parameters=parameters
        ) as stream:
            await _listen(stream, heard, breaker, call)
            response = stream.get()
        if response.finish_reason is None and not (response.provider_details or {}).get("finish_reason"):
            # Closed properly, but in the middle: no stream ends without a reason.
            message = "The model provider's answer ended early"
            raise ExternalServiceError(message, service_name=str(self.provider))
        return response

    def _judged(self, error: Exception, breaker: Breaker) -> AIAgentError | None:
        """The domain's error, None for a fault of ours.

        The breaker hears of failures of the service, not of what one user's limits or patience are too short for.
        """
        ours = error if isinstance(error, AIAgentError) else as_ours(error, str(self.provider))
        impatient = self._config.timeout_seconds is not None and timed_out(error)
        failed = isinstance(ours, ExternalServiceError) and ours.retryable
        if failed and not impatient and not is_rate_limit(error):
            breaker.failed()
        else:
            breaker.abandoned()
        return ours


async def _listen(stream: StreamedResponse, heard: Heard, breaker: Breaker, call: ModelCall) -> None:
    answered = False
    async for event in stream:
        if not answered:
            answered = True
            breaker.answered()
            call.spoke()
        if (piece := _piece(event)) is not None:
            await heard.say(*piece)
        else:
            heard.count(_argument_characters(event))


def _piece(event: Any) -> tuple[str, str] | None:
    # The first token is in the part's start, not in a delta.
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta | ThinkingPartDelta):
        kind = "token" if isinstance(event.delta, TextPartDelta) else "reasoning"
        return (kind, event.delta.content_delta) if event.delta.content_delta else None
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart | ThinkingPart):
        kind = "token" if isinstance(event.part, TextPart) else "reasoning"
        return (kind, event.part.content) if event.part.content else None
    return None


def _argument_characters(event: Any) -> int:
    """A call's arguments cost tokens as words do."""
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, ToolCallPartDelta):
        return len(str(event.delta.args_delta or ""))
    if isinstance(event, PartStartEvent) and isinstance(event.part, ToolCallPart):
        return len(str(event.part.args or ""))
    return 0


def usage_of(response: ModelResponse) -> Usage | None:
    """The tokens as the provider counted them, None when it told nothing."""
    told = response.usage
    if told.input_tokens + told.output_tokens == 0:
        return None
    return Usage(told.input_tokens, told.output_tokens, told.cache_read_tokens)


def _retryable(error: AIAgentError) -> bool:
    return not isinstance(error, ExternalServiceError) or error.retryable


def _pause(number: int, error: ExternalServiceError) -> float | None:
    """Seconds until the next try, with full jitter; None when there is none to be made."""
    if number == TRIES or not error.retryable or (error.retry_after or 0) > LONGEST_PAUSE:
        return None
    if error.retry_after is not None:
        return error.retry_after
    return random.uniform(0, FIRST_PAUSE * 2 ** (number - 1))  # noqa: S311  # not a secret


def _model_settings(config: ModelConfig) -> ModelSettings:
    given: dict[str, Any] = {
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "top_p": config.top_p,
    }
    # What is read within it may be the first byte, or the next one.
    timeout = httpx2.Timeout(config.timeout_seconds or IDLE_SECONDS, connect=CONNECT_SECONDS)
    settings: ModelSettings = ModelSettings(
        timeout=timeout,
        **{k: v for k, v in given.items() if v is not None},  # type: ignore[typeddict-item]  # the names are its own
    )
    return settings
