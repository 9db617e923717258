"""What a run costs."""

import json
from pathlib import Path

import pytest

from ai_agent.domain.agents import Provider
from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.executions import Usage
from ai_agent.execution.bounds import total
from ai_agent.execution.prices import Price, Prices

USED = Usage(1_000_000, 1_000_000, 500_000)


def test_known_models_have_the_prices_of_the_list() -> None:
    openai = Prices().cost(Provider.OPENAI, "gpt-4o", None, Usage(1_000_000, 1_000_000))
    assert openai == pytest.approx(12.5)
    assert (Prices().cost(Provider.ANTHROPIC, "claude-3-5-haiku-latest", None, USED) or 0) > 0


def test_what_nobody_knows_has_no_price() -> None:
    assert Prices().cost(Provider.OPENAI, "my-own", None, USED) is None
    # A server of one's own may name its model like another's.
    assert Prices().cost(Provider.OPENAI, "gpt-4o", "http://10.0.0.1/v1", USED) is None


def test_the_local_model_costs_nothing() -> None:
    assert Prices().cost(Provider.LOCAL, "smollm2-135m", "http://127.0.0.1:1/v1", USED) == 0


def test_the_operators_table_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    table = {"openai/gpt-4o": {"input": 1, "output": 2, "cached": 0.5}, "openai/own": {"input": 3, "output": 0}}
    file.write_text(json.dumps(table))
    prices = Prices.load(file)
    assert prices.cost(Provider.OPENAI, "gpt-4o", None, USED) == pytest.approx(0.5 + 0.25 + 2)
    assert prices.cost(Provider.OPENAI, "own", "http://10.0.0.1/v1", USED) == pytest.approx(3)


@pytest.mark.parametrize(
    "text", ["{", '{"openai/m": {"input": "much"}}', '{"openai/m": {"input": 1, "output": 1, "more": 1}}', None]
)
def test_a_table_that_cannot_be_read_is_named_at_the_start(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "prices.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        Prices.load(file)
    assert "AI_AGENT_MODEL_PRICES" in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    price = Price(1, 1).of
    some = Usage(1_000_000, 0)
    assert total(Usage(), some, price).cost == 1
    assert total(total(Usage(), some, price), some, price).cost == 2
    assert total(total(Usage(), some, lambda _: None), some, price).cost is None
    assert total(total(Usage(), some, price), some, lambda _: None).cost is None
