"""The schema's history: one line of revisions, each with a way back."""

import inspect
from pathlib import Path

import pytest
from alembic.script import Script, ScriptDirectory

from ai_agent.domain.errors import ConfigurationError
from ai_agent.storage import migrations
from ai_agent.storage.engine import sqlite_path

SCRIPTS = ScriptDirectory(str(migrations.scripts()))
REVISIONS = list(SCRIPTS.walk_revisions())


def test_the_code_knows_the_newest_revision() -> None:
    assert SCRIPTS.get_heads() == [migrations.HEAD]


def test_every_file_is_a_revision_of_one_line() -> None:
    files = {path.name for path in (migrations.scripts() / "versions").glob("*.py")}
    assert {Path(script.path).name for script in REVISIONS} == files
    assert [script.down_revision for script in REVISIONS] == [*(s.revision for s in REVISIONS[1:]), None]


@pytest.mark.parametrize("script", REVISIONS, ids=lambda script: script.revision)
def test_every_revision_can_be_gone_to_and_back_from(script: Script) -> None:
    for way in ("upgrade", "downgrade"):
        assert "op." in inspect.getsource(getattr(script.module, way))


@pytest.mark.parametrize("script", REVISIONS, ids=lambda script: script.revision)
def test_a_revisions_file_begins_with_its_number(script: Script) -> None:
    assert Path(script.path).name.startswith(f"{script.revision}_")


def test_an_address_is_a_file_or_postgresql() -> None:
    assert sqlite_path("sqlite:////data/we?ird#name.db") == Path("/data/we?ird#name.db")
    assert sqlite_path("postgresql://user:pass@host/db?sslmode=disable") is None


@pytest.mark.parametrize(
    "address", ["mysql://u@h/d", "sqlite://", "sqlite:///:memory:", "postgresql://u:p@h:abc/d", "somewhere", ""]
)
def test_an_address_that_nobody_understands_is_told_by_its_setting(address: str) -> None:
    with pytest.raises(ConfigurationError, match="AI_AGENT_DATABASE_URL"):
        sqlite_path(address)
