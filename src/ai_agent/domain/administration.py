"""What the operator sees of the whole server: how much there is, and how it is set up."""

from datetime import datetime

import msgspec

from ai_agent.domain.execution_history import TokenCounts


class RowCounts(msgspec.Struct):
    """How many there are, of all owners."""

    sessions: int
    messages: int
    agents: int
    executions: int
    tools: int
    mcp_servers: int
    api_keys: int


class LiveExecutions(msgspec.Struct):
    """Runs that have not ended."""

    queued: int
    running: int
    waiting: int
    oldest_ready_at: datetime | None


class EndedExecutions(msgspec.Struct):
    """Runs that were accepted in the last 24 hours and have ended, and what they used."""

    completed: int
    failed: int
    cancelled: int
    tokens: TokenCounts
    cost: float


class Stats(msgspec.Struct):
    """How much there is. `approximate` names the counts that are estimates."""

    version: str
    counts: RowCounts
    approximate: list[str]
    live: LiveExecutions
    last_24h: EndedExecutions
    connections: int
    unacknowledged: int
    dead_letters: int
    outbox_oldest_at: datetime | None


class Setting(msgspec.Struct):
    """A setting by its environment variable, written as there; what is secret in it is `***`."""

    name: str
    value: str | None
    is_default: bool


class Configuration(msgspec.Struct):
    """The settings of the process that answers."""

    settings: list[Setting]
