"""`ai-agent doctor`: every dependency and setting, and what to do."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape

from ai_agent.domain.errors import ConfigurationError
from ai_agent.execution.model_reach import NO_MODEL, available_models, reach
from ai_agent.settings import Environment, Settings, load_settings, unknown_variables
from ai_agent.storage import migrations
from ai_agent.storage.engine import create_database
from ai_agent.storage.redis import connect

console = Console(highlight=False)

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


async def _queue(settings: Settings) -> str:
    if settings.shares_runs:
        return "Redis; `ai-agent worker` on any machine runs what is queued"
    return "in memory; each `ai-agent serve` runs what it has accepted"


async def _models(settings: Settings) -> str:
    if models := available_models(settings):
        return ", ".join(models)
    raise ConfigurationError("There is no model", NO_MODEL)
