"""`ai-agent doctor`: every dependency and setting, and what to do."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape

from ai_agent.backends import limiter_of
from ai_agent.cli.limits import SPARE_FILES, open_files
from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.fields import now
from ai_agent.execution.model_reach import NO_MODEL, available_models, reach
from ai_agent.services.rate_limits import RateLimitService
from ai_agent.settings import Environment, Settings, load_settings, unknown_variables
from ai_agent.storage import migrations
from ai_agent.storage.engine import create_database, sqlite_path
from ai_agent.storage.redis import connect
from ai_agent.storage.statements import Statement

console = Console(highlight=False)

CLOCK_SECONDS = 2.0

Answer = TypeVar("Answer")

_TIME = Statement(sa.select(sa.func.clock_timestamp()), datetime)
_CONNECTIONS = Statement(sa.select(sa.cast(sa.func.current_setting("max_connections"), sa.Integer)), int)

Check = Callable[[Settings], Coroutine[Any, Any, str]]


def doctor() -> int:
    """Prints a line a check; 1 when something is wrong."""
    settings = load_settings()
    checks: dict[str, Check] = {
        "settings": _settings,
        "data directory": _directory,
        "database": _database,
        "redis": _redis,
        "queue": _queue,
        "clock": _clock,
        "limits": _limits,
        "models": _models,
    }
    providers = (name for name in available_models(settings) if name != "local")
    checks |= {name: partial(reach, provider=name) for name in providers}
    results = [_report(name, check, settings) for name, check in checks.items()]
    return 0 if all(results) else 1


def _report(name: str, check: Check, settings: Settings) -> bool:
    try:
        found = asyncio.run(check(settings))
    except ConfigurationError as error:
        console.print(f"[red]wrong[/] {name}: {escape(error.message)}\n      {escape(error.hint)}", soft_wrap=True)
        return False
    console.print(f"[green]ok[/]    {name}: {escape(found)}", soft_wrap=True)
    return True


async def _settings(settings: Settings) -> str:
    if unknown := unknown_variables():
        raise ConfigurationError(f"Not a setting: {', '.join(unknown)}", "See .env.example for those that there are")
    if settings.environment is Environment.DEVELOPMENT:
        return "development; set AI_AGENT_ENVIRONMENT=production before others depend on it"
    return str(settings.environment)


async def _directory(settings: Settings) -> str:
    directory = settings.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{directory}: {error.strerror}", "Set AI_AGENT_DATA_DIR to another") from error
    if not os.access(directory, os.W_OK):
        raise ConfigurationError(f"{directory} cannot be written", "Set AI_AGENT_DATA_DIR to another")
    return str(directory)


async def _database(settings: Settings) -> str:
    database = create_database(settings.database, pool_size=1, statement_timeout=settings.db_statement_timeout)
    if database.dialect == "sqlite" and sqlite3.sqlite_version_info < (3, 35):
        raise ConfigurationError(
            f"SQLite {sqlite3.sqlite_version} is too old", "Python must be linked to 3.35 or newer"
        )
    await database.open()
    try:
        revision = await migrations.current_revision(database)
    finally:
        await database.close()
    if revision == migrations.HEAD:
        return f"{database.dialect}, schema {revision}"
    if database.dialect == "sqlite":
        return "sqlite; the first `ai-agent serve` makes the schema"
    raise ConfigurationError(f"The schema is at {revision}, the code at {migrations.HEAD}", "Run: ai-agent db upgrade")


async def _redis(settings: Settings) -> str:
    if settings.redis_url is None:
        return "none; this process counts rate limits by itself"
    redis = connect(settings.redis_url)
    try:
        kept = await redis.config_get("appendonly", "appendfsync", "maxmemory-policy")
        await redis.eval("return redis.call('INFO', 'replication')", 0)  # As the event log asks, which needs the right.
    except Exception as error:  # Of the client's own kinds, which are imported only here.
        reason = str(error) or type(error).__name__
        raise ConfigurationError(f"Redis cannot be asked: {reason}", "Check AI_AGENT_REDIS_URL") from error
    finally:
        await redis.aclose()
    if kept["maxmemory-policy"] != "noeviction":
        hint = "Set maxmemory-policy noeviction: what is thrown out is counted anew"
        raise ConfigurationError(f"Redis may throw out what it holds ({kept['maxmemory-policy']})", hint)
    if kept["appendonly"] != "yes":
        raise ConfigurationError("Redis forgets everything when it restarts", "Set appendonly yes")
    if kept["appendfsync"] == "no":
        raise ConfigurationError("Redis forgets up to half a minute when its machine stops", "Set appendfsync everysec")
    return "keeps what it is told"


async def _clock(settings: Settings) -> str:
    """Tokens, cursors and events carry times, about which all have to agree."""
    told = await _ask(settings, _TIME)
    clocks = {
        "the database": told,
        "Redis": None if settings.redis_url is None else await _redis_time(settings.redis_url),
    }
    known = {name: (at - now()).total_seconds() for name, at in clocks.items() if at is not None}
    for name, ahead in known.items():
        if abs(ahead) > CLOCK_SECONDS:
            way = "behind" if ahead > 0 else "ahead of"
            message = f"This machine's clock is {abs(ahead):.0f} s {way} that of {name}"
            raise ConfigurationError(message, "Let both follow the same time servers (NTP)")
    return f"agrees with {' and '.join(known)}" if known else "nothing to compare it with"


async def _redis_time(url: str) -> datetime | None:
    redis = connect(url)
    try:
        seconds, microseconds = await redis.time()
    except Exception:  # Its own check tells.
        return None
    finally:
        await redis.aclose()
    return datetime.fromtimestamp(seconds + microseconds / 1_000_000, UTC)


async def _limits(settings: Settings) -> str:
    RateLimitService(settings, limiter_of(settings))  # Raises for one that cannot be read.
    if not settings.rate_limit_enabled:
        raise ConfigurationError("Nothing is limited", "Remove AI_AGENT_RATE_LIMIT_ENABLED=false")
    files, sockets = open_files(), settings.ws_max_connections
    if files < sockets + SPARE_FILES:
        hint = "Raise the limit (ulimit -Hn, LimitNOFILE), or lower AI_AGENT_WS_MAX_CONNECTIONS"
        raise ConfigurationError(f"{files} open files are allowed, too few for {sockets} sockets", hint)
    most, size = await _ask(settings, _CONNECTIONS), settings.db_pool_size
    if most is None:
        return f"{files} open files"
    if most < size:
        hint = "Raise max_connections of PostgreSQL, or lower AI_AGENT_DB_POOL_SIZE"
        raise ConfigurationError(f"PostgreSQL allows {most} connections, and each process takes up to {size}", hint)
    return f"PostgreSQL's {most} connections are enough for {most // size} processes; {files} open files"


async def _ask(settings: Settings, statement: Statement[Answer]) -> Answer | None:
    """What PostgreSQL answers; None where there is none, or none that answers, which its own check tells."""
    if sqlite_path(settings.database) is not None:
        return None
    database = create_database(settings.database, pool_size=1, statement_timeout=settings.db_statement_timeout)
    try:
        await database.open()
    except ConfigurationError:
        return None
    try:
        return await database.reader.first(statement)
    finally:
        await database.close()


async def _queue(settings: Settings) -> str:
    if settings.shares_runs:
        return "Redis; `ai-agent worker` on any machine runs what is queued"
    return "in memory; each `ai-agent serve` runs what it has accepted"


async def _models(settings: Settings) -> str:
    if models := available_models(settings):
        return ", ".join(models)
    raise ConfigurationError("There is no model", NO_MODEL)
