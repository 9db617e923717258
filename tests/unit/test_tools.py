"""The builtin tools, and which of an agent's names are tools."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_agent.domain.tools import ToolKind, ToolSpec
from ai_agent.execution.builtin_tools import BuiltinTools
from ai_agent.execution.calculator import Incalculable, calculate
from ai_agent.execution.tools import BUILTIN_SPECS, Call, Toolbox, Toolset, perform
from ai_agent.storage.engine import create_database
from tests.model_server import ModelServer

DATABASE = create_database("sqlite:///unused.db", pool_size=1, statement_timeout=5)
TOOLBOX = Toolbox({ToolKind.BUILTIN: BuiltinTools(DATABASE)})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("-7 // 2", -4),
        ("7 % 4", 3),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        (" +1 ", 1),
        ("sqrt(16) + max(1, 2, 3)", 7),
        ("round(2.345, 2)", 2.35),
        ("round(7.6)", 8),
        ("floor(pi)", 3),
        ("factorial(5)", 120),
    ],
)
def test_arithmetic(expression: str, value: float) -> None:
    assert calculate(expression) == pytest.approx(value)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("__import__('os').system('true')", "Not allowed"),
        ("(1).__class__", "Not allowed"),
        ("x", "Not allowed"),
        ("True", "Not allowed"),
        ("'a' * 3", "Not allowed"),
        ("[1][0]", "Not allowed"),
        ("abs(*[1])", "Not allowed"),
        ("round(number=1)", "Not allowed"),
        ("1 if 1 else 2", "Not allowed"),
        ("lambda: 1", "Not allowed"),
        ("1 +", "no arithmetic"),
        ("", "no arithmetic"),
        ("\0", "no arithmetic"),
        ("1/0", "Division by zero"),
        ("9**9**9", "digits"),
        ("10**999 * 10**999", "digits"),
        ("factorial(factorial(20))", "factorial takes"),
        ("1e308 * 10", "no finite"),
        ("1e308 ** 2", "too large"),
        ("10**999 / 3", "too large"),
        ("(-8) ** 0.5", "no real"),
        ("sqrt(-1)", "math domain"),
        ("min()", "expected"),
        ("(" * 90 + "1" + ")" * 90 + "+" + "-" * 60 + "1", "nested"),
        ("1" * 1001, "longer"),
    ],
)
def test_what_is_no_arithmetic_or_too_much_of_it_is_refused(expression: str, reason: str) -> None:
    begun = time.monotonic()
    with pytest.raises(Incalculable, match=reason):
        calculate(expression)
    assert time.monotonic() - begun < 0.5


@given(st.text("0123456789+-*/%(). efactorilsqn,", max_size=40))
def test_no_text_takes_long_or_fails_otherwise(text: str) -> None:
    begun = time.monotonic()
    with contextlib.suppress(Incalculable):
        assert isinstance(calculate(text), int | float)
    assert time.monotonic() - begun < 0.5


def run(name: str, arguments: dict[str, Any]) -> Any:
    tool = TOOLBOX.tool(BUILTIN_SPECS[name])
    assert tool is not None
    return asyncio.run(perform(tool, Call(arguments, "owner"))).output


def test_the_time_is_told_where_it_was_asked_for() -> None:
    assert run("current_time", {})["time"].endswith("+00:00")
    assert run("current_time", {"timezone": "Asia/Kolkata"})["time"].endswith("+05:30")


def test_numbers_that_json_cannot_hold_are_text() -> None:
    assert run("calculator", {"expression": "2**53 - 1"}) == {"result": 2**53 - 1}
    assert run("calculator", {"expression": "2**100"}) == {"result": str(2**100)}


def client(name: str, **more: Any) -> ToolSpec:
    return ToolSpec(name, ToolKind.CLIENT, **more)


def test_what_is_no_tool_is_told() -> None:
    specs = [
        client("good"),
        client("off", enabled=False),
        client("bad_schema", schema={"type": "nonsense"}),
        ToolSpec("unknown_builtin", ToolKind.BUILTIN),
        client("not_asked_for"),
    ]
    names = ["good", "off", "bad_schema", "unknown_builtin", "nobodys", "calculator", "good"]
    found = Toolset(names, specs, TOOLBOX)
    assert list(found.tools) == ["good", "calculator"]
    assert found.unavailable == ["off", "bad_schema", "unknown_builtin", "nobodys"]


def test_a_schema_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text("{}")
    with ModelServer() as server:
        for place in (file.as_uri(), f"{server.url}/schema.json"):
            assert Toolset(["t"], [client("t", schema={"$ref": place})], TOOLBOX).unavailable == ["t"]
        assert server.looks == 0


def test_a_row_changes_a_builtin_and_may_switch_it_off() -> None:
    row = ToolSpec("calculator", ToolKind.BUILTIN, description="Sums.", requires_approval=True)
    tool = Toolset(["calculator"], [row], TOOLBOX).tools["calculator"]
    assert (tool.description, tool.requires_approval) == ("Sums.", True)
    assert tool.schema["required"] == ["expression"]
    off = ToolSpec("calculator", ToolKind.BUILTIN, enabled=False)
    assert Toolset(["calculator"], [off], TOOLBOX).unavailable == ["calculator"]


def test_faults_are_told_with_their_places() -> None:
    schema = {"properties": {"items": {"type": "array", "items": {"type": "object", "required": ["name"]}}}}
    tool = Toolset(["t"], [client("t", schema=schema)], TOOLBOX).tools["t"]
    assert tool.faults({"items": [{"name": 1}]}) is None
    assert tool.faults({"items": [{"name": 1}, {}]}) == 'at items[1]: "name" is a required property'
