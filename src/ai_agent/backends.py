"""What keeps things, as the settings say: PostgreSQL or a file, Redis or the process's own memory."""

from ai_agent.execution.job_queue import JobQueue, LitestarJobQueue
from ai_agent.realtime.event_log import EventLog
from ai_agent.realtime.redis_log import RedisLog
from ai_agent.realtime.sqlite_log import SqliteLog
from ai_agent.settings import Environment, Settings
from ai_agent.storage.connections import RedisConnections
from ai_agent.storage.database import Database
from ai_agent.storage.engine import create_database
from ai_agent.storage.limiter import Limiter, MemoryLimiter
from ai_agent.storage.presence import RedisPresence
from ai_agent.storage.redis import connect
from ai_agent.storage.redis_limiter import RedisLimiter
from ai_agent.storage.resilient_limiter import ResilientLimiter
from ai_agent.storage.timed import TimedDatabase

EVENTS_FILE = "events.db"
"""The event log of an embedded server, in its data directory."""


def database_of(settings: Settings) -> Database:
    database = create_database(
        settings.database, pool_size=settings.db_pool_size, statement_timeout=settings.db_statement_timeout
    )
    return TimedDatabase(database) if settings.environment is Environment.DEVELOPMENT else database


def queue_of(settings: Settings) -> JobQueue:
    """Redis where processes share a database."""
    concurrency, lease = settings.execution_concurrency, settings.execution_lease_seconds
    if settings.redis_url is None or not settings.shares_runs:
        return LitestarJobQueue(concurrency=concurrency)
    redis = connect(settings.redis_url, answer_seconds=1, reconnect=True)
    return LitestarJobQueue(redis, concurrency=concurrency, lease_seconds=lease, name=_deployment(settings))


def log_of(settings: Settings) -> EventLog:
    if settings.redis_url is None or not settings.shares_runs:
        return SqliteLog(settings.directory / EVENTS_FILE)
    return RedisLog(connect(settings.redis_url), _deployment(settings))


def _deployment(settings: Settings) -> str:
    """What tells this deployment from another one on the same Redis."""
    return settings.database.rpartition("/")[2].partition("?")[0]


def connections_of(settings: Settings) -> RedisConnections | None:
    if settings.redis_url is None or not settings.shares_runs:
        return None
    return RedisConnections(connect(settings.redis_url, answer_seconds=1, reconnect=True), _deployment(settings))


def presence_of(settings: Settings) -> RedisPresence | None:
    if settings.redis_url is None or not settings.shares_runs:
        return None
    return RedisPresence(connect(settings.redis_url), _deployment(settings))


def limiter_of(settings: Settings) -> Limiter:
    strategy = settings.rate_limit_strategy
    if settings.redis_url is None:
        return MemoryLimiter(strategy)
    return ResilientLimiter(RedisLimiter(connect(settings.redis_url), strategy), strategy)
