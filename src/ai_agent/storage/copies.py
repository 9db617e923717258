"""Copies of an embedded database, made while it runs and put back while it does not.

Source: sqlite.org, "Using the SQLite Online Backup API".
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ai_agent.domain.errors import ConfigurationError
from ai_agent.storage.engine import sqlite_path
from ai_agent.storage.migrations import HEAD


def backup(url: str, target: Path) -> None:
    """Copies a database as of one moment; the file is there when all of it is. Raises ConfigurationError."""
    path = _embedded(url, "Use pg_dump for PostgreSQL")
    draft = target.with_name(f"{target.name}.part")
    try:
        # Keys' digests and what people wrote: for nobody else.
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with closing(_open(path, "ro")) as source, closing(_open(draft, "rw")) as copy:
            source.backup(copy)
        draft.replace(target)
    except (sqlite3.Error, OSError) as error:
        draft.unlink(missing_ok=True)
        hint = "Check that the database exists and the folder can be written"
        raise ConfigurationError(f"{path} cannot be copied to {target}: {error}", hint) from error


def restore(url: str, source: Path) -> Path | None:
    """Puts a copy in the place of a database that nobody uses, and tells where that one is now.

    Raises ConfigurationError, and changes nothing then.
    """
    path = _embedded(url, "Use pg_restore for PostgreSQL")
    _check(source)
    kept = path.with_name(f"{path.name}.before") if path.exists() else None
    draft = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kept is not None:
            _leave_alone(path)
        with closing(_open(source, "ro")) as copy, closing(sqlite3.connect(draft)) as database:
            copy.backup(database)
        if kept is not None:
            path.replace(kept)
        draft.replace(path)
    except (sqlite3.Error, OSError) as error:
        draft.unlink(missing_ok=True)
        hint = "Stop the server first, and check that the folder can be written"
        raise ConfigurationError(f"{source} cannot be put in the place of {path}: {error}", hint) from error
    return kept


def _embedded(url: str, hint: str) -> Path:
    path = sqlite_path(url)
    if path is None:
        raise ConfigurationError("Only the embedded database is copied like this", hint)
    return path


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)


def _check(source: Path) -> None:
    try:
        with closing(_open(source, "ro")) as copy:
            (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
            (revision,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise ConfigurationError(
            f"{source} is no copy of a database: {error}", "Make one: ai-agent db backup"
        ) from error
    if found != "ok":
        raise ConfigurationError(f"{source} is damaged: {found}", "Take another copy")
    if revision > HEAD:  # They are numbers of one length.
        message = f"{source} is of revision {revision}, newer than the code's {HEAD}"
        raise ConfigurationError(message, "Install the release that made it, or a newer one")


def _leave_alone(path: Path) -> None:
    """Writes all that is in the log beside the database into it. Raises sqlite3.Error while anybody uses it."""
    with closing(_open(path, "rw")) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode = DELETE")
