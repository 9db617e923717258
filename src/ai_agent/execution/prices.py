"""What a model's tokens cost: the operator's table first, then the public price list."""

from functools import cache
from pathlib import Path

import msgspec

from ai_agent.domain.agents import Provider
from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.executions import Usage

MILLION = 1_000_000


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars for a million tokens; cached ones cost as much as others unless it is said."""

    input: float
    output: float
    cached: float | None = None

    def of(self, usage: Usage) -> float:
        cached = self.input if self.cached is None else self.cached
        fresh = max(0, usage.input_tokens - usage.cached_tokens)
        return (fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output) / MILLION


class Prices:
    def __init__(self, table: dict[str, Price] | None = None):
        self._table = table or {}

    @classmethod
    def load(cls, path: Path | None) -> "Prices":
        """The operator's table, by `provider/model`. Raises ConfigurationError."""
        if path is None:
            return cls()
        try:
            return cls(msgspec.json.decode(path.read_bytes(), type=dict[str, Price]))
        except (OSError, msgspec.MsgspecError) as error:
            hint = 'It holds {"openai/gpt-4o": {"input": 2.5, "output": 10, "cached": 1.25}}: US dollars a million'
            raise ConfigurationError(f"AI_AGENT_MODEL_PRICES: {path}: {error}", hint) from error

    def cost(self, provider: Provider, model: str, base_url: str | None, usage: Usage) -> float | None:
        """US dollars, None when nobody told the price: that of another server is known from the table only."""
        if (price := self._table.get(f"{provider}/{model}")) is not None:
            return price.of(usage)
        if provider is Provider.LOCAL:
            return 0.0
        return None if base_url is not None else _listed(provider, model, usage)


def read_list() -> None:
    """Reads the public list, which takes 0.14 s once."""
    _is_listed(Provider.OPENAI, "")


def _listed(provider: Provider, model: str, usage: Usage) -> float | None:
    if not _is_listed(provider, model):
        return None
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    tokens = Tokens(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=min(usage.cached_tokens, usage.input_tokens),
    )
    return float(calc_price(tokens, model, provider_id=str(provider)).total_price)


@cache
def _is_listed(provider: Provider, model: str) -> bool:
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    try:
        calc_price(Tokens(input_tokens=1), model, provider_id=str(provider))
    except LookupError:
        return False
    return True
