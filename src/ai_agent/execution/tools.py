"""The tools of a run: which of an agent's names are tools, what a model is told of them, and what calling one does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import jsonschema_rs
import msgspec
import structlog

from ai_agent.domain.errors import CircuitBreakerOpen
from ai_agent.domain.fields import JsonObject
from ai_agent.domain.tool_calls import MAX_OUTPUT_BYTES
from ai_agent.domain.tools import BUILTINS, TOOL_SECONDS, ToolKind, ToolSpec
from ai_agent.execution.breaker import Breaker, Breakers
from ai_agent.execution.run_state import Progress
from ai_agent.observability import tracing
from ai_agent.observability.tool_metrics import CALLS, DURATION

INTERRUPTED = "The call was interrupted: whether it took effect is not known"

_MOST_FAULTS = 10

log = structlog.get_logger()


class ToolFailed(Exception):
    """A tool could not do it, and says why in words for the model. Other errors are not shown to it."""


class ToolUnavailable(ToolFailed):
    """What stands behind a tool did not answer, or not as it should: after five in a row it is left alone a while."""


async def _nobody_listens(_: Progress) -> None:
    pass


class Call(msgspec.Struct, frozen=True):
    """One call, as an operation is told of it: with arguments that fit the schema, for an owner.

    An operation that takes a while may `tell` how far it is.
    """

    arguments: JsonObject
    owner_id: str
    tell: Callable[[Progress], Awaitable[None]] = _nobody_listens


Operation = Callable[[Call], Awaitable[Any]]
"""Answers the output, whatever JSON can say. Raises ToolFailed."""


class Operations(Protocol):
    """What tools of one kind do."""

    def operation(self, spec: ToolSpec) -> Operation | None:
        """What calling this tool does; None when there is no such tool (any more)."""


class Tool(msgspec.Struct, frozen=True):
    """`operation` is None for a tool that the client runs."""

    name: str
    description: str
    schema: JsonObject
    kind: ToolKind
    validator: Any
    operation: Operation | None = None
    requires_approval: bool = False
    idempotent: bool = False
    timeout_seconds: float = TOOL_SECONDS
    breaker: Breaker | None = None

    def faults(self, arguments: JsonObject) -> str | None:
        """What is wrong with arguments, each with its path, for the model to mend."""
        told = (f"at {path_of(path) or '$'}: {message}" for path, message in self.all_faults(arguments))
        return "; ".join(told) or None

    def all_faults(self, arguments: JsonObject) -> list[tuple[Sequence[str | int], str]]:
        """What is wrong with arguments, and where; at most ten faults."""
        errors = zip(range(_MOST_FAULTS), self.validator.iter_errors(arguments), strict=False)
        return [(error.instance_path, error.message) for _, error in errors]


class Toolbox:
    """What can be done with registered tools, kind by kind. One of a process."""

    def __init__(self, kinds: Mapping[ToolKind, Operations]):
        self._kinds = kinds
        self.breakers = Breakers()

    def tool(self, spec: ToolSpec) -> Tool | None:
        """None for what cannot be called: disabled, or nothing that this server knows to do."""
        operation = kind.operation(spec) if (kind := self._kinds.get(spec.kind)) else None
        if not spec.enabled or (operation is None and spec.kind is not ToolKind.CLIENT):
            return None
        told = BUILTINS[spec.name] if spec.kind is ToolKind.BUILTIN else None
        schema = told.schema if told else {"type": "object", "properties": {}} | spec.schema
        try:
            validator = _validator(schema)
        except ValueError:
            return None
        return Tool(
            name=spec.name,
            description=spec.description or (told.description if told else ""),
            schema=schema,
            kind=spec.kind,
            validator=validator,
            operation=operation,
            requires_approval=spec.requires_approval,
            idempotent=spec.idempotent,
            timeout_seconds=spec.timeout_seconds,
            breaker=self.breakers.of(str(spec.mcp_server_id or spec.id)) if spec.id else None,
        )


class Toolset:
    """The tools that an agent names and that there are; `unavailable` are the other names."""

    def __init__(self, names: Iterable[str], specs: Sequence[ToolSpec], toolbox: Toolbox):
        self.tools: dict[str, Tool] = {}
        self.unavailable: list[str] = []
        rows = BUILTIN_SPECS | {spec.name: spec for spec in specs}
        for name in dict.fromkeys(names):
            spec = rows.get(name)
            if spec is None or (tool := toolbox.tool(spec)) is None:
                self.unavailable.append(name)
            else:
                self.tools[name] = tool

    def withdraw(self) -> None:
        """For a model that can call none."""
        self.unavailable += self.tools
        self.tools = {}


BUILTIN_SPECS = {name: ToolSpec(name, ToolKind.BUILTIN, idempotent=True) for name in BUILTINS}
"""What every agent may name, without a row."""


def _validator(schema: JsonObject) -> Any:
    """Raises ValueError for what is no schema. A reference to elsewhere is none: nothing is fetched."""
    return jsonschema_rs.Draft202012Validator(schema, retriever=_retrieve_nothing)


def _retrieve_nothing(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not in the schema")


def path_of(path: Sequence[str | int]) -> str:
    """A place in the arguments, as `items[2].name`; nothing for the whole."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


class Outcome(msgspec.Struct, frozen=True):
    """What came of a call, as the model or a client hears it. `truncated`: the output was longer."""

    output: Any
    is_error: bool
    truncated: bool
    duration_ms: int


async def perform(tool: Tool, call: Call) -> Outcome:
    """Calls a tool that the server runs, within its time. Whatever it does is an outcome."""
    begun = time.monotonic()
    about = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool.name,
        "ai_agent.tool.kind": tool.kind.value,
    }
    with tracing.span(f"execute_tool {tool.name}", about) as current:
        output, is_error = await _called(tool, call)
        if is_error:
            tracing.failed(current, "tool_failed")
    kept, truncated = cut(output)
    seconds = time.monotonic() - begun
    CALLS.labels(tool.kind.value, "failed" if is_error else "completed").inc()
    DURATION.labels(tool.kind.value).observe(seconds)
    return Outcome(kept, is_error, truncated, int(seconds * 1000))


async def _called(tool: Tool, call: Call) -> tuple[Any, bool]:
    try:
        output = await _answered(tool, call)
        msgspec.json.encode(output)
    except ToolFailed as error:
        return str(error), True
    except Exception:
        log.exception("tool_crashed", tool=tool.name)
        return "The tool failed", True
    return output, False


async def _answered(tool: Tool, call: Call) -> Any:
    """Raises ToolFailed, also for one that was unavailable so often that it is not asked."""
    assert tool.operation is not None  # noqa: S101  # only such a tool is called
    breaker = tool.breaker or Breaker(tool.name)
    try:
        breaker.admit()
    except CircuitBreakerOpen as error:
        raise ToolFailed("The tool has failed again and again: it is not called for up to half a minute") from error
    try:
        async with asyncio.timeout(tool.timeout_seconds):
            output = await tool.operation(call)
    except TimeoutError as error:
        breaker.failed()
        raise ToolFailed(f"The tool took longer than {tool.timeout_seconds:g} s") from error
    except ToolUnavailable:
        breaker.failed()
        raise
    except ToolFailed:
        breaker.succeeded()
        raise
    except BaseException:
        breaker.abandoned()
        raise
    breaker.succeeded()
    return output


def cut(output: Any) -> tuple[Any, bool]:
    """At most 256 KiB of JSON; what is cut becomes text that says so."""
    encoded = msgspec.json.encode(output)
    if len(encoded) <= MAX_OUTPUT_BYTES:
        return output, False
    text = output.encode() if isinstance(output, str) else encoded
    mark = f"\n[cut: the output was longer than {MAX_OUTPUT_BYTES} bytes]"
    kept = text[: MAX_OUTPUT_BYTES - len(mark) - 16]
    while len(msgspec.json.encode(kept.decode(errors="ignore"))) + len(mark) + 2 > MAX_OUTPUT_BYTES:
        kept = kept[: len(kept) * 3 // 4]  # Quotes and controls take more room in JSON.
    return kept.decode(errors="ignore") + mark, True
