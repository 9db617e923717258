"""The file of the SQLite event log: its tables, and what is done with them on one connection, in whatever thread.

Several processes share the file. What writes runs inside `BEGIN IMMEDIATE`, so numbers, fences and what is there
already are decided by one at a time; `events.id` is the order of the commits, over all channels.
"""

import secrets
import sqlite3
import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from ai_agent.domain.channels import Retention
from ai_agent.domain.events import EventFrame, NewEvent
from ai_agent.realtime.event_log import (
    FORGOTTEN,
    METADATA_FACTOR,
    TRIM_STEP,
    Fenced,
    Heard,
    LogPage,
    Position,
    still_holds,
)

BUSY_TIMEOUT_MS = 1000
"""Two waits, one behind the other, are still less than the 2.5 s that an answer may take."""
TAILED_AT_ONCE = 1000

# Without AUTOINCREMENT an id would be given again after the newest event is removed, and a tail would pass it over.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS channels (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    top INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 1,
    fence INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL,
    expires_at REAL NOT NULL,
    emptied INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    channel INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    eid BLOB NOT NULL,
    type TEXT NOT NULL,
    ts INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS epochs (channel INTEGER NOT NULL, epoch TEXT NOT NULL, last INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS ix_epochs_channel ON epochs (channel);
CREATE TABLE IF NOT EXISTS boots (id TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS ix_events_seq ON events (channel, seq);
CREATE UNIQUE INDEX IF NOT EXISTS ix_events_eid ON events (channel, eid);
COMMIT;
"""
# A power cut may have taken the last commits: what is there now is what holds of the epochs before it.
_NEW_BOOT = (
    "UPDATE epochs SET last = min(last, (SELECT top FROM channels WHERE id = channel))",
    "INSERT INTO epochs SELECT id, epoch, top FROM channels",
    "UPDATE channels SET epoch = lower(hex(randomblob(4)))",
    "DELETE FROM epochs WHERE channel NOT IN (SELECT id FROM channels)",
    "DELETE FROM boots",
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CHANNEL = "SELECT id, epoch, top, floor, fence FROM channels WHERE name = ?"
_NEW_CHANNEL = """INSERT INTO channels (name, epoch, seconds, expires_at) VALUES (?, ?, ?, 0)
                  RETURNING id, epoch, top, floor, fence"""
_INSERT = """INSERT INTO events (channel, seq, eid, type, ts, data) VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT (channel, eid) DO NOTHING"""
_SEQ = "SELECT seq FROM events WHERE channel = ? AND eid = ?"
_ADVANCE = """UPDATE channels SET top = ?, floor = ?, fence = max(fence, ?), expires_at = ? + seconds, emptied = 0
              WHERE id = ?"""
_TRIM = "DELETE FROM events WHERE channel = ? AND seq <= ?"
_READ = """SELECT c.epoch, c.top, c.floor, e.seq, e.eid, e.type, e.ts, e.data
           FROM channels c LEFT JOIN events e ON e.channel = c.id AND e.seq > min(?, c.top) AND e.seq >= c.floor
           WHERE c.name = ? ORDER BY e.seq LIMIT ?"""
_NEWER = """SELECT e.id, c.name, c.epoch, e.seq, e.eid, e.type, e.ts, e.data
            FROM events e JOIN channels c ON c.id = e.channel
            WHERE e.id > ? ORDER BY e.id LIMIT ?"""
_BOUNDS = "SELECT e.epoch, e.last FROM epochs e JOIN channels c ON c.id = e.channel WHERE c.name = ?"
_EXPIRE = "UPDATE channels SET seconds = ?, expires_at = ? WHERE name = ?"
_FORGET = "UPDATE channels SET fence = ?, floor = top + 1, expires_at = ? + seconds WHERE id = ?"
_FAREWELL = "UPDATE channels SET top = ? WHERE id = ?"
_EXPIRED = "SELECT id FROM channels WHERE expires_at < ? AND NOT emptied LIMIT 1000"
_EMPTY_SOME = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE channel = ? ORDER BY seq LIMIT ?)"
_HIDE = "UPDATE channels SET floor = top + 1 WHERE id = ? AND expires_at < ?"
_EMPTIED = "UPDATE channels SET emptied = 1 WHERE id = ?"
_FORGET_CHANNELS = "DELETE FROM channels WHERE emptied AND expires_at + seconds * ? < ?"


class Known(msgspec.Struct):
    """What the file says of a channel."""

    id: int
    epoch: str
    top: int
    floor: int
    fence: int


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # NORMAL: what was answered survives the process; a power cut may take the last moments, and rows tell of the end.
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = connect(path)
    try:
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN IMMEDIATE")
        boot = (_boot_id(),)
        if connection.execute("SELECT id FROM boots").fetchone() != boot:
            for statement in _NEW_BOOT:
                connection.execute(statement)
            connection.execute("INSERT INTO boots VALUES (?)", boot)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _boot_id() -> str:
    """Another one whenever the machine was started anew; always the same where there is none."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def append(
    connection: sqlite3.Connection, channel: str, events: Sequence[NewEvent], fence: int, retained: Retention
) -> Position:
    """In the caller's transaction. Raises Fenced, and has changed nothing then."""
    known = _known(connection, channel, retained)
    if (known.fence == FORGOTTEN or 0 < fence < known.fence) and not _are_there(connection, known.id, events):
        raise Fenced
    seq = known.top
    for event in events:
        if _insert(connection, known, event):
            seq = known.top
        else:
            (seq,) = connection.execute(_SEQ, (known.id, event.eid.bytes)).fetchone()
    if known.top - known.floor >= retained.events + TRIM_STEP - 1:
        known.floor = known.top - retained.events + 1
        connection.execute(_TRIM, (known.id, known.floor - 1))
    connection.execute(_ADVANCE, (known.top, known.floor, fence, time.time(), known.id))
    return Position(known.epoch, seq)


def _insert(connection: sqlite3.Connection, known: Known, event: NewEvent) -> bool:
    """False when the event is there already."""
    row = (known.id, known.top + 1, event.eid.bytes, event.type, event.ts, bytes(event.data))
    inserted = connection.execute(_INSERT, row).rowcount
    known.top += inserted
    return bool(inserted)


def _known(connection: sqlite3.Connection, channel: str, retained: Retention) -> Known:
    row = connection.execute(_CHANNEL, (channel,)).fetchone()
    new = (channel, secrets.token_hex(4), retained.seconds)
    return Known(*row or connection.execute(_NEW_CHANNEL, new).fetchone())


def _are_there(connection: sqlite3.Connection, channel_id: int, events: Sequence[NewEvent]) -> bool:
    return all(connection.execute(_SEQ, (channel_id, event.eid.bytes)).fetchone() for event in events)


def read(connection: sqlite3.Connection, channel: str, since: Position, limit: int) -> LogPage:
    """In one statement, so that all of it is of the same moment; bounds change before anybody reads."""
    bounds = dict(connection.execute(_BOUNDS, (channel,)).fetchall()) if since.epoch else {}
    behind = min(since.seq, bounds.get(since.epoch, since.seq))
    rows = connection.execute(_READ, (behind, channel, max(limit, 1))).fetchall()
    epoch, top, floor = rows[0][:3] if rows else ("", 0, 1)
    after = still_holds(since, epoch, top, bounds)
    there = after is not None and rows and rows[0][3] is not None
    events = [_frame(channel, row[3:]) for row in rows[:limit]] if there else []
    return LogPage(epoch, top, floor, after, events)


def _frame(channel: str, row: Sequence[Any]) -> EventFrame:
    seq, eid, kind, ts, data = row
    return EventFrame(channel, seq, UUID(bytes=eid), kind, ts, msgspec.Raw(data))


def newest(connection: sqlite3.Connection) -> int:
    """The id of the newest event there ever was."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return row[0] if row else 0


def version(connection: sqlite3.Connection) -> int:
    """Another number whenever another connection, of whatever process, has changed the file."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def newer(connection: sqlite3.Connection, last: int, wanted: Container[str]) -> tuple[int, dict[str, Heard]]:
    """Events behind an id, of the wanted channels; and the id of the newest that was looked at."""
    found: dict[str, Heard] = {}
    more = True
    while more:
        rows = connection.execute(_NEWER, (last, TAILED_AT_ONCE)).fetchall()
        for _, channel, epoch, *row in rows:
            if channel in wanted:
                found.setdefault(channel, Heard(epoch, [])).events.append(_frame(channel, row))
        last = rows[-1][0] if rows else last
        more = len(rows) == TAILED_AT_ONCE
    return last, found


def expire(connection: sqlite3.Connection, channel: str, seconds: float) -> None:
    connection.execute(_EXPIRE, (seconds, time.time() + seconds, channel))


def forget(connection: sqlite3.Connection, channel: str, farewell: NewEvent | None, retained: Retention) -> None:
    known = _known(connection, channel, retained)
    if known.fence == FORGOTTEN:
        return
    connection.execute(_FORGET, (FORGOTTEN, time.time(), known.id))
    if farewell is not None and _insert(connection, known, farewell):
        connection.execute(_FAREWELL, (known.top, known.id))


def expired(connection: sqlite3.Connection) -> list[int]:
    """Channels whose events are to be removed."""
    return [row[0] for row in connection.execute(_EXPIRED, (time.time(),))]


def empty(connection: sqlite3.Connection, channel_id: int) -> bool:
    """Removes some events of a channel; True when there is nothing left to do."""
    if not connection.execute(_HIDE, (channel_id, time.time())).rowcount:
        return True  # Somebody has appended to it meanwhile.
    if connection.execute(_EMPTY_SOME, (channel_id, TRIM_STEP)).rowcount == TRIM_STEP:
        return False
    connection.execute(_EMPTIED, (channel_id,))
    return True


def forget_channels(connection: sqlite3.Connection) -> None:
    """Forgets epochs, tops and fences of channels that nobody can know any more."""
    connection.execute(_FORGET_CHANNELS, (METADATA_FACTOR - 1, time.time()))
