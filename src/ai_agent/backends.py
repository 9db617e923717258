"""What keeps things, as the settings say: PostgreSQL or a file, Redis or the process's own memory."""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ai_agent.execution.job_queue import JobQueue, LitestarJobQueue
from ai_agent.observability import tracing
from ai_agent.observability.timing import timed
from ai_agent.realtime.event_log import EventLog
from ai_agent.realtime.redis_log import RedisLog
from ai_agent.realtime.sqlite_log import SqliteLog
from ai_agent.settings import Environment, Settings
from ai_agent.storage.connections import RedisConnections
from ai_agent.storage.database import Database
from ai_agent.storage.engine import create_database
from ai_agent.storage.limiter import Limiter, MemoryLimiter
from ai_agent.storage.observed import ObservedDatabase
from ai_agent.storage.presence import RedisPresence
from ai_agent.storage.redis import connect
from ai_agent.storage.redis_limiter import RedisLimiter
from ai_agent.storage.resilient_limiter import ResilientLimiter
from ai_agent.storage.statements import Statement

EVENTS_FILE = "events.db"
"""The event log of an embedded server, in its data directory."""


def database_of(settings: Settings) -> Database:
    database = create_database(
        settings.database, pool_size=settings.db_pool_size, statement_timeout=settings.db_statement_timeout
    )
    if tracing.is_on():
        database = ObservedDatabase(database, partial(_statement_span, database.dialect))
    if settings.environment is Environment.DEVELOPMENT:
        database = ObservedDatabase(database, lambda _: timed("db"))
    return database


def _statement_span(system: str, statement: Statement[Any]) -> AbstractContextManager[Any]:
    operation, table = statement.summary
    summary = f"{operation} {table}".rstrip()
    names = {"db.operation.name": operation, "db.collection.name": table, "db.query.summary": summary}
    return tracing.client_span(summary, {"db.system.name": system, **names})


def queue_of(settings: Settings) -> JobQueue:
    """Redis where processes share a database."""
    concurrency, lease = settings.execution_concurrency, settings.execution_lease_seconds
    if settings.redis_url is None or not settings.shares_runs:
        return LitestarJobQueue(concurrency=concurrency)
    redis = connect(settings.redis_url, answer_seconds=1, reconnect=True)
    queue = LitestarJobQueue(redis, concurrency=concurrency, lease_seconds=lease, name=_deployment(settings))
    tracing.trace_calls(queue, "redis", "enqueue", "cancel")
    return queue


def log_of(settings: Settings) -> EventLog:
    if settings.redis_url is None or not settings.shares_runs:
        return SqliteLog(settings.directory / EVENTS_FILE)
    log = RedisLog(connect(settings.redis_url), _deployment(settings))
    tracing.trace_calls(log, "redis", "append", "read")
    return log


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
    limiter = RedisLimiter(connect(settings.redis_url), strategy)
    tracing.trace_calls(limiter, "redis", "charge")
    return ResilientLimiter(limiter, strategy)
