"""What is counted and measured, for `/metrics`: families named `ai_agent_…`.

`ai-agent serve --workers` names a directory in PROMETHEUS_MULTIPROC_DIR: there the library keeps what each process
counts, and whichever is asked tells of all.
"""

import os
from collections.abc import Callable, Iterator
from glob import glob
from typing import Final

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# Before anything is counted: a time beside each counter would double the answer.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

OF_ALL: Final = "livemostrecent"
"""For gauges that tell of all nodes, whoever is asked: the last one that looked is right."""

RATE_LIMIT_DECISIONS = Counter(
    "ai_agent_rate_limit_decisions",
    "Requests that were let through or refused, by the limit that was the tightest",
    ["scope", "decision"],
)
LIMITER_ON_MEMORY = Gauge(
    "ai_agent_rate_limits_on_memory",
    "1 while each node counts rate limits by itself, because Redis is away",
    multiprocess_mode="livemax",
)
LIMITER_CHANGES = Counter(
    "ai_agent_rate_limit_storage_changes", "Changes of where rate limits are counted, by what they changed to", ["to"]
)
APPLICATION_EVENTS_LOST = Counter(
    "ai_agent_application_events_lost",
    "Messages of application code that were never published, and times that a subscriber of it missed some, by why",
    ["reason"],
)
TASKS = Gauge("ai_agent_tasks", "Tasks of the event loop", multiprocess_mode="livesum")
POOL_SIZE = Gauge("ai_agent_db_pool_size", "Connections that the database's pool may open", multiprocess_mode="livesum")
POOL_IN_USE = Gauge("ai_agent_db_pool_in_use", "Connections of the pool that are lent out", multiprocess_mode="livesum")
POOL_WAITING = Gauge(
    "ai_agent_db_pool_waiting", "Statements that wait for a connection of the pool", multiprocess_mode="livesum"
)

_samples: dict[object, Callable[[], None]] = {}


def shared() -> bool:
    """Whether processes share what they count."""
    return DIRECTORY in os.environ


def sampled(name: object, sample: Callable[[], None]) -> None:
    """Before `/metrics` is told, this is called. What had the name before is forgotten."""
    _samples[name] = sample


def take_samples() -> None:
    """Sets what is looked at and not counted."""
    for sample in _samples.values():
        sample()


def registry() -> CollectorRegistry:
    """All that is known, of all processes that share it."""
    if not shared():
        return REGISTRY
    everything = CollectorRegistry()
    MultiProcessCollector(everything)  # type: ignore[no-untyped-call]  # the library leaves it untyped
    everything.register(_Processes())
    return everything


def exposition() -> bytes:
    """In Prometheus's text format."""
    return generate_latest(registry())


class _Processes(Collector):
    """What the library tells of a process, of each that lives: memory, CPU, files."""

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for pid in live_pids(os.environ[DIRECTORY]):
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    known.add_sample(sample.name, {"pid": str(pid)}, sample.value)
        yield from families.values()


def live_pids(directory: str) -> set[int]:
    """The processes whose gauges are there."""
    names = glob(os.path.join(directory, "gauge_live*_*.db"))
    return {int(name.rpartition("_")[2].removesuffix(".db")) for name in names}
