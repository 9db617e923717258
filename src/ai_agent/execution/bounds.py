"""What a run has used, and the bounds it is held to. Each raises a LimitExceeded of its own."""

from collections.abc import Callable

from ai_agent.domain.agents import ModelConfig
from ai_agent.domain.errors import MaxCostExceeded, MaxStepsExceeded, MaxToolCallsExceeded, MaxTotalTokensExceeded
from ai_agent.domain.executions import Usage
from ai_agent.execution.run_state import RunState

MAX_STEPS = 50
MAX_TOOL_CALLS = 200

Cost = Callable[[Usage], float | None]
"""US dollars for tokens of the model that is asked, None when nobody told the price."""


def check_step(state: RunState, config: ModelConfig) -> None:
    most = config.max_steps or MAX_STEPS
    if state.steps >= most:
        raise MaxStepsExceeded(f"The run reached its limit of {most} steps")


def check_tool_calls(state: RunState) -> None:
    if state.tool_calls > MAX_TOOL_CALLS:
        raise MaxToolCallsExceeded(f"The run reached its limit of {MAX_TOOL_CALLS} tool calls")


def check_usage(usage: Usage, config: ModelConfig) -> None:
    most = config.max_total_tokens
    if most is not None and usage.input_tokens + usage.output_tokens > most:
        raise MaxTotalTokensExceeded(f"The run reached its limit of {most} tokens")
    if config.max_cost is not None and (usage.cost or 0) > config.max_cost:
        raise MaxCostExceeded(f"The run reached its limit of {config.max_cost:g} US dollars")


def total(used: Usage, more: Usage, cost: Cost) -> Usage:
    """Both together; a sum with an unknown cost is unknown."""
    added, nothing_yet = cost(more), used.input_tokens + used.output_tokens == 0
    before = 0.0 if nothing_yet else used.cost
    return Usage(
        used.input_tokens + more.input_tokens,
        used.output_tokens + more.output_tokens,
        used.cached_tokens + more.cached_tokens,
        None if before is None or added is None else before + added,
        used.estimated or more.estimated,
    )
