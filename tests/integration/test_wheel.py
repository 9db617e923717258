"""The package as it is installed: in an empty environment, away from the repository."""

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import httpx
import pytest

from ai_agent.storage.migrations import HEAD
from tests.conftest import KEY, SECRET
from tests.servers import free_port, wait_for_port

REPOSITORY = Path(__file__).parents[2]


def _uv(*arguments: str | Path, cwd: Path = REPOSITORY) -> str:
    uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` tells which one it is.
    assert uv is not None
    run = subprocess.run([uv, "-q", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist, and of the wheel that was made of the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    _uv("build", "--out-dir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ai-agent` in an environment of its own, with the versions of the lock file."""
    folder = tmp_path_factory.mktemp("installed")
    locked = _uv("export", "--frozen", "--no-dev", "--no-hashes", "--no-emit-project", "--no-header")
    (folder / "locked.txt").write_text(locked)
    _uv("venv", folder / "venv", cwd=folder)
    _uv("pip", "install", "--python", folder / "venv", "--constraint", folder / "locked.txt", wheel, cwd=folder)
    return folder / "venv" / "bin" / "ai-agent"


def _environment(folder: Path, **settings: str) -> dict[str, str]:
    """None of the repository's, and none of the environment that the tests run in."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "AI_AGENT_DATA_DIR": str(folder / "data"), **settings}


def run(command: Path, folder: Path, *arguments: str, **settings: str) -> str:
    environment = _environment(folder, **settings)
    done = subprocess.run(
        [command, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_wheel_holds_the_package_its_migrations_and_its_licence_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        told = Parser().parsestr(archive.read(metadata).decode())
    sources = REPOSITORY / "src"
    package = {str(path.relative_to(sources)) for path in sources.rglob("*") if path.is_file()}
    migrations = {f"ai_agent/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "migrations").rglob("*.*")}
    wanted = {name for name in package | migrations if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert "ai_agent/py.typed" in names
    assert (told["License-Expression"], told["Requires-Python"]) == ("MIT", ">=3.11")
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "Typing :: Typed" in told.get_all("Classifier", [])


def test_the_sdist_makes_the_same_wheel_as_the_repository(built: Path, wheel: Path, tmp_path: Path) -> None:
    _uv("build", "--wheel", "--out-dir", tmp_path)
    (direct,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(direct) as one, zipfile.ZipFile(wheel) as other:
        assert {info.filename: info.CRC for info in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {Path(member).parts[1] for member in archive.getnames()}
    told = {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert tops == {"src", "migrations"} | told


def test_the_installed_command_knows_itself(command: Path, tmp_path: Path) -> None:
    version = re.findall(r'^version = "(.*)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)[0]
    assert version in run(command, tmp_path, "--version")
    assert run(command, tmp_path, "openapi") == (REPOSITORY / "docs" / "openapi.json").read_text()


def test_the_installed_command_migrates_postgresql(command: Path, tmp_path: Path, empty_postgres: str) -> None:
    assert run(command, tmp_path, "db", "upgrade", AI_AGENT_DATABASE_URL=empty_postgres).strip() == HEAD
    run(command, tmp_path, "db", "check", AI_AGENT_DATABASE_URL=empty_postgres)


@pytest.fixture
def url(command: Path, tmp_path: Path) -> Iterator[str]:
    """Of a server that was started on nothing."""
    port = free_port()
    settings = {"AI_AGENT_SECRET_KEY": SECRET, "AI_AGENT_BOOTSTRAP_API_KEY": KEY}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [command, "serve", "--port", str(port)],
            env=_environment(tmp_path, **settings),
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_installed_server_migrates_its_sqlite_and_brings_its_pages_along(url: str) -> None:
    with httpx.Client(base_url=url, timeout=30) as http:
        assert http.get("/health/ready").status_code == 200
        page = http.get("/docs")
        assets = re.findall(r'(?:href|src)="(/[^"]+)"', page.text)
        assert len(assets) >= 2
        assert {http.get(asset).status_code for asset in assets} == {200}
        made = http.post("/api/v1/sessions", json={"title": "first"}, headers={"Authorization": f"Bearer {KEY}"})
        assert made.status_code == 201
