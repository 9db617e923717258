"""Settings: every wrong value is named, and every secret is made once."""

import os
import re
import stat
from pathlib import Path

import pytest

from ai_agent.domain.errors import ConfigurationError
from ai_agent.settings import (
    Auth,
    Environment,
    LogFormat,
    LogLevel,
    Settings,
    env_example,
    kept_secret,
    load_settings,
    unknown_variables,
    variable,
)

SECRET = "a-secret-key-for-tests-of-32-characters"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, and none of our variables in the environment."""
    for name in list(os.environ):
        if name.startswith(("AI_AGENT_", "OPENAI_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AI_AGENT_ENVIRONMENT", "prod"),
        ("AI_AGENT_DB_POOL_SIZE", "0"),
        ("AI_AGENT_DB_POOL_SIZE", "1001"),
        ("AI_AGENT_DB_POOL_SIZE", "many"),
        ("AI_AGENT_DB_STATEMENT_TIMEOUT", "0"),
        ("AI_AGENT_SECRET_KEY", "x" * 31),
        ("AI_AGENT_AUTH", "off"),
        ("AI_AGENT_JWT_SECRET", "x" * 31),
        ("AI_AGENT_JWT_ALGORITHMS", "none"),
        ("AI_AGENT_JWT_ALGORITHMS", "HS256,HS512"),
        ("AI_AGENT_JWT_ALGORITHMS", ","),
        ("AI_AGENT_JWT_JWKS_URL", "ftp://issuer.example/jwks.json"),
        ("AI_AGENT_JWT_JWKS_URL", "file://host/jwks.json"),
        ("AI_AGENT_TOKEN_SECONDS", "0"),
        ("AI_AGENT_TOKEN_SECONDS", "3601"),
        ("AI_AGENT_REFRESH_TOKEN_SECONDS", "0"),
        ("AI_AGENT_MAX_BODY_BYTES", "1023"),
        ("AI_AGENT_EXECUTION_TIMEOUT", "nan"),
        ("AI_AGENT_EXECUTION_MAX_ATTEMPTS", "0"),
        ("AI_AGENT_DRAIN_WINDOW_SECONDS", "-1"),
        ("AI_AGENT_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_names_its_variable_and_says_what_it_is_for(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({name: value})
    assert caught.value.message.startswith(f"{name}: ")
    assert caught.value.hint
    assert f"# {caught.value.hint}\n#{name}=" in env_example()


def test_a_wrong_secret_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"AI_AGENT_SECRET_KEY": "hunter2"})
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_values_have_the_types_of_their_settings() -> None:
    settings = load_settings(
        {
            "AI_AGENT_DB_POOL_SIZE": "7",
            "AI_AGENT_EXECUTION_TIMEOUT": "1.5",
            "AI_AGENT_AUTH": "disabled",
            "AI_AGENT_LOG_LEVEL": "debug",
            "AI_AGENT_DATA_DIR": "~/agents",
        }
    )
    assert (settings.db_pool_size, settings.execution_timeout) == (7, 1.5)
    assert (settings.auth, settings.log_level) == (Auth.DISABLED, LogLevel.DEBUG)
    assert settings.data_dir == Path.home() / "agents"


def test_the_environment_beats_the_env_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("AI_AGENT_DB_POOL_SIZE=3\nAI_AGENT_LOG_LEVEL=error\n")
    monkeypatch.setenv("AI_AGENT_DB_POOL_SIZE", "4")
    settings = load_settings()
    assert (settings.db_pool_size, settings.log_level) == (4, LogLevel.ERROR)


def test_overrides_beat_the_environment(tmp_path: Path) -> None:
    settings = load_settings({"AI_AGENT_DATA_DIR": "/elsewhere"}, {"data_dir": tmp_path})
    assert settings.data_dir == tmp_path


@pytest.mark.parametrize("field", ["openai_api_key", "openai_base_url", "anthropic_api_key", "anthropic_base_url"])
def test_providers_settings_have_the_providers_own_names(field: str) -> None:
    assert getattr(load_settings({field.upper(): "given"}), field) == "given"
    assert getattr(load_settings({f"AI_AGENT_{field.upper()}": "given"}), field) is None


def test_an_empty_value_is_an_absent_one() -> None:
    empty = {variable(field): "" for field in Settings.__struct_fields__}
    assert load_settings(empty) == Settings()


def test_the_example_file_is_the_one_the_settings_write() -> None:
    assert (REPOSITORY / ".env.example").read_text() == env_example()


def test_the_example_file_tells_every_default() -> None:
    told = dict(re.findall(r"^#([A-Z_]+)=(.*)$", env_example(), re.MULTILINE))
    assert list(told) == [variable(field) for field in Settings.__struct_fields__]
    assert load_settings(told) == Settings()


@pytest.mark.parametrize("algorithms", ["RS256", "HS256,ES256", "EdDSA"])
def test_keys_of_others_need_a_place_where_they_are(algorithms: str) -> None:
    with pytest.raises(ConfigurationError, match="AI_AGENT_JWT_JWKS_URL"):
        load_settings({"AI_AGENT_JWT_ALGORITHMS": algorithms})
    for url in ("https://issuer.example/jwks.json", "file:///etc/jwks.json", "/etc/jwks.json", "jwks.json"):
        settings = load_settings({"AI_AGENT_JWT_ALGORITHMS": algorithms, "AI_AGENT_JWT_JWKS_URL": url})
        assert list(settings.jwt_algorithms) == algorithms.split(",")


def test_production_refuses_to_start_without_a_secret_key() -> None:
    with pytest.raises(ConfigurationError, match="AI_AGENT_SECRET_KEY"):
        load_settings({"AI_AGENT_ENVIRONMENT": "production"})


def test_production_refuses_to_start_with_authentication_off() -> None:
    production = {"AI_AGENT_ENVIRONMENT": "production", "AI_AGENT_SECRET_KEY": SECRET}
    assert load_settings(production).environment is Environment.PRODUCTION
    with pytest.raises(ConfigurationError, match="AI_AGENT_AUTH"):
        load_settings({**production, "AI_AGENT_AUTH": "disabled"})


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://issuer.example/jwks.json", False),
        ("HTTP://10.0.0.1/jwks.json", False),
        ("http://127.0.0.1.issuer.example/jwks.json", False),
        ("http://[::1/jwks.json", False),
        ("http://", False),
        ("https://issuer.example/jwks.json", True),
        ("http://localhost:9/jwks.json", True),
        ("http://127.0.0.2/jwks.json", True),
        ("http://[::1]:9/jwks.json", True),
        ("/etc/jwks.json", True),
    ],
)
def test_production_fetches_keys_in_a_way_that_nobody_can_change(url: str, good: bool) -> None:
    given = {"AI_AGENT_SECRET_KEY": SECRET, "AI_AGENT_JWT_ALGORITHMS": "RS256", "AI_AGENT_JWT_JWKS_URL": url}
    production = given | {"AI_AGENT_ENVIRONMENT": "production"}
    if good:
        assert load_settings(production).jwt_jwks_url == url
        return
    with pytest.raises(ConfigurationError, match="AI_AGENT_JWT_JWKS_URL"):
        load_settings(production)


def test_logs_are_json_in_production_unless_they_are_told_otherwise() -> None:
    assert Settings().format is LogFormat.CONSOLE
    assert Settings(environment=Environment.PRODUCTION).format is LogFormat.JSON
    assert Settings(environment=Environment.PRODUCTION, log_format=LogFormat.CONSOLE).format is LogFormat.CONSOLE


def test_the_database_is_in_the_data_directory_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).database == f"sqlite:///{tmp_path}/ai-agent.db"
    assert Settings(data_dir=tmp_path, database_url="postgresql://u@h/d").database == "postgresql://u@h/d"


def test_the_generated_secret_is_made_once_and_is_long_enough(tmp_path: Path) -> None:
    first = Settings(data_dir=tmp_path / "new" / "folder").secret
    assert Settings(data_dir=tmp_path / "new" / "folder").secret == first
    assert Settings(data_dir=tmp_path / "other").secret != first
    assert len(first) >= 32


def test_a_given_secret_leaves_no_file(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path, secret_key=SECRET).secret == SECRET
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_can_read_a_kept_secret(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        kept_secret(tmp_path / "secret.key", lambda: "made")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["secret.key"]


def test_of_two_processes_that_make_a_secret_both_read_the_first_ones(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"

    def slow() -> str:
        kept_secret(path, lambda: "the other's")
        return "mine"

    assert kept_secret(path, slow) == "the other's"


def test_a_kept_secret_is_not_made_again(tmp_path: Path) -> None:
    def never() -> str:
        raise AssertionError("made twice")

    kept_secret(tmp_path / "secret.key", lambda: "made")
    assert kept_secret(tmp_path / "secret.key", never) == "made"


def test_a_data_directory_that_is_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigurationError) as caught:
        _ = Settings(data_dir=file).secret
    assert str(file) in caught.value.message
    assert "AI_AGENT_DATA_DIR" in caught.value.hint


def test_misspelt_variables_are_found_in_the_environment_and_the_env_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("AI_AGENT_LOGLEVEL=info\nOTHER=1\n")
    monkeypatch.setenv("AI_AGENT_POOL_SIZE", "3")
    monkeypatch.setenv("AI_AGENT_DB_POOL_SIZE", "3")
    monkeypatch.setenv("AI_AGENT_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("AI_AGENT_API_KEY", "a client's")
    assert unknown_variables() == ["AI_AGENT_LOGLEVEL", "AI_AGENT_POOL_SIZE"]


@pytest.mark.parametrize(
    ("name", "value"), [("AI_AGENT_DATA_DIR", "~nobody-here/x"), ("AI_AGENT_DRAIN_WINDOW_SECONDS", "inf")]
)
def test_a_value_that_breaks_the_start_later_is_a_wrong_value(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load_settings({name: value})
