"""The agent loop: one step is one streamed request to a model, and then the tool calls that it asks for.

Stands on the agent library's models, not on its graph: between steps a run is saved, may wait for humans and clients,
and is held to its bounds. Imported at a process's first run, never by the API.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition

from ai_agent.domain.agents import AgentContent, ModelConfig, Provider
from ai_agent.domain.errors import Conflict
from ai_agent.domain.executions import Usage
from ai_agent.domain.fields import new_id
from ai_agent.domain.messages import HistoryEntry, Role
from ai_agent.domain.tool_calls import ToolCallStatus
from ai_agent.execution.bounds import MAX_STEPS, check_step, check_tool_calls, check_usage, total
from ai_agent.execution.calls import Asked, Plan, answers_by_call, carry_out, pending, plan
from ai_agent.execution.context_window import RESERVED_TOKENS, fitting, tokens_of
from ai_agent.execution.heard import CHARACTERS_A_TOKEN, Heard
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.model_calls import ModelCalls, Question, usage_of
from ai_agent.execution.prices import read_list
from ai_agent.execution.run_state import Answered, Finished, Run, RunInput, RunState, Waiting
from ai_agent.execution.tools import Toolbox, Toolset

_OUTCOMES: dict[ToolCallStatus, Literal["success", "denied"]] = {
    ToolCallStatus.COMPLETED: "success",
    ToolCallStatus.REJECTED: "denied",
    ToolCallStatus.EXPIRED: "denied",
}

# This module is imported in a thread: nobody waits for it.
read_list()

MAX_CALL_ID = 64
"""Characters; no provider takes longer ones back."""


async def run_agent(
    given: RunInput,
    state: RunState,
    answers: Sequence[Answered],
    interrupted: frozenset[str],
    access: ModelAccess,
    toolbox: Toolbox,
    run: Run,
) -> Finished | Waiting:
    """Answers the last message of the branch; as `RunAgent` has it.

    Raises ExternalServiceError and CircuitBreakerOpen for what providers do, LimitExceeded for the run's own bounds.
    """
    if given.agent is None or not given.branch:
        raise Conflict("The agent of the execution, or its message, was deleted")
    loop = _Loop(given.agent, given, state, access, toolbox, run)
    return await loop.run(answers_by_call(answers), interrupted)


class _Loop:
    def __init__(
        self,
        agent: AgentContent,
        given: RunInput,
        state: RunState,
        access: ModelAccess,
        toolbox: Toolbox,
        run: Run,
    ):
        self._config = msgspec.json.decode(agent.model_config, type=ModelConfig)
        self._prompt = agent.system_prompt or ""
        self._branch = given.branch
        self._owner = given.owner_id
        self._state = state
        self._run = run
        self._calls = ModelCalls(agent, self._config, access)
        self._tools = _toolset(agent, given, toolbox, self._calls.provider)
        self._definitions = [
            ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.schema)
            for tool in self._tools.tools.values()
        ]
        self._tool_tokens = sum(tokens_of(str(tool)) for tool in self._definitions)
        self._history: list[ModelMessage] = ModelMessagesTypeAdapter.validate_json(bytes(state.history))
        state.unavailable_tools = self._tools.unavailable

    async def run(self, answers: Mapping[str, Answered], interrupted: frozenset[str]) -> Finished | Waiting:
        if not self._history:
            self._history.append(ModelRequest(parts=[UserPromptPart(self._branch[-1].content)]))
        while True:
            if calls := self._open_calls():
                plans = [
                    plan(
                        _asked(call),
                        self._state.steps,
                        self._tools,
                        answers.get(call.tool_call_id),
                        interrupted=call.tool_call_id in interrupted,
                    )
                    for call in calls
                ]
                if waiting := await self._carry_out(plans):
                    return waiting
            elif isinstance(self._history[-1], ModelResponse):
                return Finished(self._state)
            await self._step()

    async def _step(self) -> None:
        state = self._state
        check_step(state, self._config)
        await self._run.step(state.steps + 1, self._config.max_steps or MAX_STEPS)
        question = await self._question()
        gap = "\n\n" if state.content and not state.content.endswith("\n") else ""
        heard = Heard(self._run.say, self._look, gap, str(self._calls.provider))
        try:
            response = await self._calls.ask(question, heard)
        except BaseException:
            cut = _estimate(question, heard) if heard.began else Usage(estimated=True)
            state.usage = total(state.usage, cut, self._calls.cost)
            raise
        finally:
            state.content += heard.text
        self._take(response, _estimate(question, heard))

    def _look(self, tokens: int) -> None:
        """Ends a step that has surely said too much, while it is still speaking."""
        check_usage(total(self._state.usage, Usage(output_tokens=tokens), self._calls.cost), self._config)

    def _take(self, response: ModelResponse, estimate: Usage) -> None:
        """Adds a model's answer to the run, and looks at the bounds."""
        state = self._state
        state.steps += 1
        state.model = self._calls.model
        state.usage = total(state.usage, usage_of(response) or estimate, self._calls.cost)
        check_usage(state.usage, self._config)
        _make_ids_unique(response, _call_ids(self._history))
        self._history.append(response)
        state.tool_calls += len(self._open_calls())
        check_tool_calls(state)

    async def _question(self) -> Question:
        """The branch and the run's own messages, as far as they fit the window: the oldest of the branch go first."""
        window = (await self._calls.endpoint()).context_tokens - (self._config.max_tokens or RESERVED_TOKENS)
        own = sum(tokens_of(_text(message)) for message in self._history[1:])
        kept = fitting(self._branch, self._prompt, window - own - self._tool_tokens)
        self._state.context_truncated |= len(kept) < len(self._branch)
        return Question(self._prompt, [*_messages(kept[:-1]), *self._history], self._definitions)

    async def _carry_out(self, plans: list[Plan]) -> Waiting | None:
        """Runs what may run, between two saves: a call that was begun is never begun again unnoticed."""
        if any(each.tool is not None for each in plans):
            await self._save(plans)
        await carry_out(plans, self._owner, self._run)
        if results := [_result(each) for each in plans if each.needs is None]:
            self._add_results(results)
        await self._save(plans)
        return Waiting(self._state, waiting) if (waiting := pending(plans)) else None

    def _add_results(self, results: list[ToolReturnPart]) -> None:
        last = self._history[-1]
        before = last.parts if isinstance(last, ModelRequest) else []
        parts = [*before, *results]
        if isinstance(last, ModelRequest):
            self._history.pop()
        self._history.append(ModelRequest(parts=parts))

    async def _save(self, plans: list[Plan]) -> None:
        self._state.history = msgspec.Raw(ModelMessagesTypeAdapter.dump_json(self._history))
        await self._run.save(self._state, [each.record for each in plans])

    def _open_calls(self) -> list[ToolCallPart]:
        """The calls of the last response that have no result yet, in the order in which they were asked for."""
        answered: set[str] = set()
        for message in reversed(self._history):
            if isinstance(message, ModelResponse):
                calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
                return [call for call in calls if call.tool_call_id not in answered]
            answered |= {part.tool_call_id for part in message.parts if isinstance(part, ToolReturnPart)}
        return []


def _toolset(agent: AgentContent, given: RunInput, toolbox: Toolbox, provider: Provider) -> Toolset:
    tools = Toolset(msgspec.json.decode(agent.tools, type=list[str]), given.tools, toolbox)
    if provider is Provider.LOCAL:  # It is too small to call tools, and its server refuses requests that offer some.
        tools.withdraw()
    return tools


def _messages(branch: Sequence[HistoryEntry]) -> list[ModelMessage]:
    history: list[ModelMessage] = []
    for entry in branch:
        if entry.role == Role.ASSISTANT:
            history.append(ModelResponse(parts=[TextPart(entry.content)]))
        elif entry.role == Role.SYSTEM:
            history.append(ModelRequest(parts=[SystemPromptPart(entry.content)]))
        else:
            history.append(ModelRequest(parts=[UserPromptPart(entry.content)]))
    return history


def _asked(call: ToolCallPart) -> Asked:
    arguments: Any = call.args or {}
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.MsgspecError, UnicodeEncodeError):
            arguments = None
    return Asked(call.tool_call_id, call.tool_name, arguments if isinstance(arguments, dict) else None)


def _result(done: Plan) -> ToolReturnPart:
    record = done.record
    return ToolReturnPart(record.name, record.output, record.call_id, outcome=_OUTCOMES.get(record.status, "failed"))


def _estimate(question: Question, heard: Heard) -> Usage:
    sent = len(question.instructions) + sum(len(_text(message)) for message in question.messages)
    return Usage(sent // CHARACTERS_A_TOKEN, heard.tokens, estimated=True)


def _text(message: ModelMessage) -> str:
    """What counts of a message: its texts, the arguments of calls, and the results."""
    return "".join(str(getattr(part, "content", None) or getattr(part, "args", None) or "") for part in message.parts)


def _call_ids(history: Sequence[ModelMessage]) -> set[str]:
    return {part.tool_call_id for message in history for part in message.parts if isinstance(part, ToolCallPart)}


def _make_ids_unique(response: ModelResponse, taken: set[str]) -> None:
    """Providers may name two calls of a run alike; a run needs to tell them apart."""
    for part in response.parts:
        if isinstance(part, ToolCallPart):
            if part.tool_call_id in taken or not 0 < len(part.tool_call_id) <= MAX_CALL_ID:
                part.tool_call_id = f"call_{new_id().hex}"
            taken.add(part.tool_call_id)
