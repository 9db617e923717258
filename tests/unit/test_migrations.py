"""The schema's history: one line of revisions, each with a way back."""

import inspect
from pathlib import Path

import pytest
from alembic.script import Script, ScriptDirectory

from ai_agent.domain.errors import ConfigurationError
from ai_agent.storage import migrations

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


def test_addresses_are_written_for_the_asyncio_drivers() -> None:
    assert migrations.engine_url("sqlite:////data/a.db").render_as_string() == "sqlite+aiosqlite:////data/a.db"
    on_postgresql = migrations.engine_url("postgresql://u:p@h:5432/d").render_as_string(hide_password=False)
    assert on_postgresql == "postgresql+asyncpg://u:p@h:5432/d"


@pytest.mark.parametrize("address", ["mysql://u@h/d", "sqlite://", "somewhere", ""])
def test_an_address_that_nobody_understands_is_told_by_its_setting(address: str) -> None:
    with pytest.raises(ConfigurationError, match="AI_AGENT_DATABASE_URL"):
        migrations.engine_url(address)
