"""What `/metrics` tells of requests to models, by provider and model.

Users name models, so there could be any number of names: each process tells of the first hundred that answered, and
counts all else as `other`.
"""

import time

from prometheus_client import Counter, Histogram

from ai_agent.domain.executions import Usage

MODELS = 100
OTHER = "other"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)
_BY_MODEL = ["provider", "model"]

CALLS = Counter("ai_agent_model_calls", "Requests to models that ended, by how", [*_BY_MODEL, "outcome"])
FIRST_TOKEN = Histogram(
    "ai_agent_model_time_to_first_token_seconds",
    "From the request to a model to the first piece of its answer",
    _BY_MODEL,
    buckets=_SECONDS,
)
DURATION = Histogram(
    "ai_agent_model_call_seconds", "From the request to a model to the end of its answer", _BY_MODEL, buckets=_SECONDS
)
TOKENS = Counter("ai_agent_model_tokens", "Tokens of requests that were answered", [*_BY_MODEL, "kind"])

_answering: set[tuple[str, str]] = set()


class ModelCall:
    """One request to a model, from its beginning on."""

    def __init__(self, provider: str, model: str):
        self._began = time.perf_counter()
        self._name = provider, model

    def spoke(self) -> None:
        """The first piece of the answer has come."""
        if len(_answering) < MODELS:
            _answering.add(self._name)
        FIRST_TOKEN.labels(*self._labels()).observe(time.perf_counter() - self._began)

    def completed(self, usage: Usage) -> None:
        labels = self._labels()
        CALLS.labels(*labels, "completed").inc()
        DURATION.labels(*labels).observe(time.perf_counter() - self._began)
        TOKENS.labels(*labels, "input").inc(usage.input_tokens)
        TOKENS.labels(*labels, "output").inc(usage.output_tokens)

    def failed(self) -> None:
        CALLS.labels(*self._labels(), "failed").inc()

    def _labels(self) -> tuple[str, str]:
        return self._name if self._name in _answering else (self._name[0], OTHER)
