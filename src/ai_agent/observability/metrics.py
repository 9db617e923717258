"""What is counted and measured, for `/metrics`: families named `ai_agent_…`."""

from prometheus_client import Counter, Gauge

RATE_LIMIT_DECISIONS = Counter(
    "ai_agent_rate_limit_decisions",
    "Requests that were let through or refused, by the limit that was the tightest",
    ["scope", "decision"],
)
LIMITER_ON_MEMORY = Gauge(
    "ai_agent_rate_limits_on_memory", "1 while each node counts rate limits by itself, because Redis is away"
)
LIMITER_CHANGES = Counter(
    "ai_agent_rate_limit_storage_changes", "Changes of where rate limits are counted, by what they changed to", ["to"]
)
APPLICATION_EVENTS_LOST = Counter(
    "ai_agent_application_events_lost",
    "Messages of application code that were never published, and times that a subscriber of it missed some, by why",
    ["reason"],
)
