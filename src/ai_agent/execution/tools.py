"""The tools of a run: which of an agent's names are tools, what a model is told of them, and what running one does."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import jsonschema_rs
import msgspec

from ai_agent.domain import tools
from ai_agent.domain.fields import JsonObject
from ai_agent.domain.tools import ToolKind, ToolSpec
from ai_agent.execution.calculator import Incalculable, calculate

Operation = Callable[[JsonObject], Awaitable[Any]]

_MOST_FAULTS = 10


class ToolFailed(Exception):
    """A tool could not do it, and says why in words for the model. Other errors are not shown to it."""


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

    def faults(self, arguments: JsonObject) -> str | None:
        """What is wrong with arguments, each with its path, for the model to mend."""
        faults = [
            f"at {path_of(error.instance_path)}: {error.message}"
            for _, error in zip(range(_MOST_FAULTS), self.validator.iter_errors(arguments), strict=False)
        ]
        return "; ".join(faults) or None


class Toolset:
    """The tools that an agent names and that there are; `unavailable` are the other names."""

    def __init__(self, names: Iterable[str], specs: Sequence[ToolSpec]):
        self.tools: dict[str, Tool] = {}
        self.unavailable: list[str] = []
        rows = {spec.name: spec for spec in specs}
        for name in dict.fromkeys(names):
            if (tool := _tool(rows.get(name) or _BUILTIN_SPECS.get(name))) is None:
                self.unavailable.append(name)
            else:
                self.tools[name] = tool

    def withdraw(self) -> None:
        """For a model that can call none."""
        self.unavailable += self.tools
        self.tools = {}


def _tool(spec: ToolSpec | None) -> Tool | None:
    if spec is None or not spec.enabled:
        return None
    builtin = BUILTINS.get(spec.name) if spec.kind is ToolKind.BUILTIN else None
    if builtin is not None:
        changes = {"requires_approval": spec.requires_approval, "description": spec.description or builtin.description}
        return msgspec.structs.replace(builtin, **changes)
    if spec.kind is not ToolKind.CLIENT:
        return None
    schema = {"type": "object", "properties": {}} | spec.schema
    try:
        validator = _validator(schema)
    except ValueError:
        return None
    return Tool(
        name=spec.name,
        description=spec.description or "",
        schema=schema,
        kind=spec.kind,
        validator=validator,
        requires_approval=spec.requires_approval,
        idempotent=spec.idempotent,
    )


def _validator(schema: JsonObject) -> Any:
    """Raises ValueError for what is no schema. A reference to elsewhere is none: nothing is fetched."""
    return jsonschema_rs.Draft202012Validator(schema, retriever=_retrieve_nothing)


def _retrieve_nothing(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not in the schema")


def path_of(path: Sequence[str | int]) -> str:
    """A place in the arguments, as `items[2].name`; `$` is the whole."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "$"


async def _current_time(arguments: JsonObject) -> JsonObject:
    name = arguments.get("timezone", "UTC")
    try:
        zone = UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # Nobody's zone, a path, a folder of zones.
        raise ToolFailed(f"There is no time zone {name!r}") from error
    moment = datetime.now(zone)
    return {"time": moment.isoformat(timespec="seconds"), "timezone": name, "weekday": moment.strftime("%A")}


async def _calculator(arguments: JsonObject) -> JsonObject:
    try:
        value = calculate(arguments["expression"])
    except Incalculable as error:
        raise ToolFailed(str(error)) from error
    # JSON's numbers are exact up to here, as far as most who read them are concerned.
    return {"result": value if abs(value) < 2**53 else str(value)}


def _builtin(name: str, operation: Operation) -> Tool:
    told = tools.BUILTINS[name]
    validator = _validator(told.schema)
    return Tool(name, told.description, told.schema, ToolKind.BUILTIN, validator, operation, idempotent=True)


_OPERATIONS = {"current_time": _current_time, "calculator": _calculator}
BUILTINS = {name: _builtin(name, operation) for name, operation in _OPERATIONS.items()}
"""What every agent may name, without a row."""

_BUILTIN_SPECS = {name: ToolSpec(name, ToolKind.BUILTIN, idempotent=True) for name in BUILTINS}
