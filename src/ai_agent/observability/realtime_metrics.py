"""What `/metrics` tells of sockets and events."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from ai_agent.domain.frames import CloseCode
from ai_agent.observability.metrics import OF_ALL, sampled

_CODES = {*CloseCode, *range(1000, 1016)}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
MEASURED = 32
"""Of so many deliveries the time of one is measured: each is as dear as a tenth of writing to a socket."""

CONNECTIONS = Gauge(
    "ai_agent_ws_connections",
    "Sockets that are open, also those that have not said yet whose they are",
    multiprocess_mode="livesum",
)
CONNECTS = Counter("ai_agent_ws_connects", "Sockets that were let in")
CLOSES = Counter("ai_agent_ws_closes", "Sockets that were closed, by the code they were closed with", ["code"])
SUBSCRIPTIONS = Gauge("ai_agent_ws_subscriptions", "Subscriptions of open sockets", multiprocess_mode="livesum")
QUEUE_BYTES = Gauge("ai_agent_ws_queue_bytes", "Frames that wait for clients to take them", multiprocess_mode="livesum")
DRAIN_SECONDS = Gauge(
    "ai_agent_ws_drain_seconds",
    "How long sockets have been let go before a stop; 0: they stay",
    multiprocess_mode="livemax",
)
SLOW_CONSUMERS = Counter("ai_agent_ws_slow_consumers", "Sockets that were closed because their client did not keep up")
RECOVERIES = Counter(
    "ai_agent_ws_recoveries",
    "Subscriptions behind a position, by whether all that followed it was there",
    ["recovered"],
)
GAPS = Counter("ai_agent_ws_gaps", "Times that clients were told that events are gone, by why", ["reason"])
PUBLISHED = Counter("ai_agent_events_published", "Events that were written to the log")
PUBLISH_SECONDS = Histogram(
    "ai_agent_event_publish_seconds", "How long it took to write events to the log", buckets=_SECONDS
)
DELIVERY_SECONDS = Histogram(
    "ai_agent_event_delivery_seconds",
    "From the event to the socket, by the clocks of who published and who delivers; one in 32 is measured",
    buckets=_SECONDS,
)
REPLAYED = Counter("ai_agent_events_replayed", "Events delivered to sockets that were read from the log")
REDELIVERIES = Counter("ai_agent_inbox_redeliveries", "Events of users' queues that were sent again")
DEAD_LETTERS = Counter("ai_agent_inbox_dead_letters", "Events that were sent as often as may be, and not acknowledged")
ACKNOWLEDGE_SECONDS = Histogram(
    "ai_agent_inbox_acknowledge_seconds",
    "From an event of a user's queue to its acknowledgement, by the clocks of who told it and who heard of that",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86_400),
)
UNACKNOWLEDGED = Gauge(
    "ai_agent_inbox_unacknowledged",
    "Events of users' queues that wait; of all nodes. NaN: unknown",
    multiprocess_mode=OF_ALL,
)
CHANNELS = Gauge("ai_agent_event_channels", "Channels that somebody in a process follows", multiprocess_mode="livesum")
BROKER_RECONNECTS = Counter("ai_agent_event_broker_reconnects", "Times that the log's connection to Redis was lost")
OUTBOX_LAG = Gauge(
    "ai_agent_outbox_lag_seconds",
    "Age of the oldest event that the log may not have; of all nodes. NaN: unknown",
    multiprocess_mode=OF_ALL,
)
DELIVERED = Counter("ai_agent_events_delivered", "Events that were handed to sockets, each time to one")


class Deliveries:
    """Counts what is delivered, and tells the library's counter in lots: by itself that costs ten times as much."""

    def __init__(self) -> None:
        self._untold = 0

    def add(self, count: int, ts: int) -> None:
        """So many events are delivered, the last of them from `ts`, milliseconds since the epoch."""
        self._untold += count
        if self._untold >= MEASURED:
            self.tell()
            DELIVERY_SECONDS.observe(max(0.0, time.time() - ts / 1000))

    def tell(self) -> None:
        DELIVERED.inc(self._untold)
        self._untold = 0


DELIVERIES = Deliveries()
sampled(DELIVERIES, DELIVERIES.tell)


@contextmanager
def publishing(events: int) -> Iterator[None]:
    """Around writing so many events to the log; what fails is not counted."""
    began = time.perf_counter()
    yield
    PUBLISH_SECONDS.observe(time.perf_counter() - began)
    PUBLISHED.inc(events)


def closed(code: int) -> None:
    """Counts a socket's end; clients may send codes of their own, which are counted together."""
    CLOSES.labels(str(code) if code in _CODES else "other").inc()
    if code == CloseCode.SLOW_CONSUMER:
        SLOW_CONSUMERS.inc()
