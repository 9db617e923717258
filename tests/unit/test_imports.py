"""What a process loads: the start is fast because heavy libraries wait until they are needed."""

import json
import pkgutil
import subprocess
import sys

import ai_agent.domain

HEAVY = {"pydantic_ai", "openai", "anthropic", "alembic", "advanced_alchemy", "xllamacpp", "httpx2"}
FRAMEWORKS = {"litestar", "sqlalchemy", "asyncpg", "aiosqlite", "structlog"}


def loaded(*modules: str) -> set[str]:
    """The top packages that a new process holds after importing these modules."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps([n for n, m in sys.modules.items() if m]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_the_server_starts_without_the_libraries_that_only_a_run_or_a_migration_needs() -> None:
    packages = loaded("ai_agent.app", "ai_agent.cli.serve")
    assert "litestar" in packages
    assert packages & HEAVY == set()


def test_the_domain_knows_no_framework() -> None:
    packages = loaded(*(f"ai_agent.domain.{module.name}" for module in pkgutil.iter_modules(ai_agent.domain.__path__)))
    assert "msgspec" in packages
    assert packages & (FRAMEWORKS | HEAVY) == set()


def test_the_client_loads_nothing_of_the_server() -> None:
    packages = loaded("ai_agent.client")
    assert "websockets" in packages
    assert packages & (FRAMEWORKS | HEAVY | {"redis", "uvicorn"}) == set()
