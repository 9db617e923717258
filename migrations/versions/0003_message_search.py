"""message search

What is searched is stored folded, and indexed by trigrams: pg_trgm on PostgreSQL, FTS5 kept by triggers on SQLite.
"""

import re
import unicodedata
from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

from ai_agent.domain.errors import ConfigurationError
from ai_agent.storage.migrations import build_indexes

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BATCH = 200
FILLER = "\u115f"
SYLLABLES = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+")

INDEXES = {
    "ix_messages_search_text": "messages USING gin (search_text gin_trgm_ops)",
    "ix_messages_owner_id": "messages (owner_id, id)",
    "ix_sessions_owner_user_id": "sessions (owner_id, user_id, last_activity, id)",
}

# Row ids of their own: those of `messages` change under VACUUM. `detail=none` keeps a third of the index; what it finds
# is checked against the text.
SQLITE_INDEX = (
    "CREATE TABLE message_search_rows (n INTEGER PRIMARY KEY, message_id VARCHAR(36) NOT NULL UNIQUE)",
    """CREATE VIRTUAL TABLE message_search USING fts5(
        search_text, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1')""",
    """CREATE TRIGGER message_search_insert AFTER INSERT ON messages BEGIN
        INSERT INTO message_search_rows (message_id) VALUES (NEW.id);
        INSERT INTO message_search (rowid, search_text)
            SELECT n, NEW.search_text FROM message_search_rows WHERE message_id = NEW.id;
    END""",
    """CREATE TRIGGER message_search_update AFTER UPDATE OF search_text ON messages
    WHEN NEW.search_text <> OLD.search_text BEGIN
        INSERT INTO message_search (message_search, rowid, search_text)
            SELECT 'delete', n, OLD.search_text FROM message_search_rows WHERE message_id = OLD.id;
        INSERT INTO message_search (rowid, search_text)
            SELECT n, NEW.search_text FROM message_search_rows WHERE message_id = NEW.id;
    END""",
    """CREATE TRIGGER message_search_delete AFTER DELETE ON messages BEGIN
        INSERT INTO message_search (message_search, rowid, search_text)
            SELECT 'delete', n, OLD.search_text FROM message_search_rows WHERE message_id = OLD.id;
        DELETE FROM message_search_rows WHERE message_id = OLD.id;
    END""",
    "INSERT INTO message_search_rows (message_id) SELECT id FROM messages ORDER BY id",
    """INSERT INTO message_search (rowid, search_text)
        SELECT n, search_text FROM message_search_rows JOIN messages ON messages.id = message_id ORDER BY n""",
)
SQLITE_TRIGGERS = ("message_search_insert", "message_search_update", "message_search_delete")


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _upgrade_postgresql()
    else:
        _upgrade_sqlite()


def _upgrade_postgresql() -> None:
    """A second try goes on where the first one stopped: what an autocommit block has done is committed."""
    _create_extension()
    op.add_column("sessions", sa.Column("search_title", sa.Text()), if_not_exists=True)
    column = sa.Column("search_text", sa.Text(), server_default="", nullable=False)
    op.add_column("messages", column, if_not_exists=True)
    with op.get_context().autocommit_block():
        _fill("sessions", "title", "search_title", _folded)
        _fill("messages", "content", "search_text", _searchable)
    build_indexes(INDEXES)


def _create_extension() -> None:
    try:
        op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    except sa.exc.DBAPIError as error:
        raise ConfigurationError(
            "The search needs PostgreSQL's extension pg_trgm, and this user may not create it",
            "Run as a superuser, in this database: CREATE EXTENSION pg_trgm; then: ai-agent db upgrade",
        ) from error


def _upgrade_sqlite() -> None:
    op.add_column("sessions", sa.Column("search_title", sa.Text()))
    op.add_column("messages", sa.Column("search_text", sa.Text(), server_default="", nullable=False))
    _fill("sessions", "title", "search_title", _folded)
    _fill("messages", "content", "search_text", _searchable)
    op.create_index("ix_messages_owner_id", "messages", ["owner_id", "id"])
    op.create_index("ix_sessions_owner_user_id", "sessions", ["owner_id", "user_id", "last_activity", "id"])
    for statement in SQLITE_INDEX:
        op.execute(statement)


def _fill(table_name: str, source: str, target: str, made: Callable[[str], str]) -> None:
    """Fills `target` with what is made of `source`, a batch of rows at a time."""
    identity = sa.Column("id", sa.Uuid().with_variant(sa.String(36), "sqlite"))
    table = sa.Table(table_name, sa.MetaData(), identity, sa.Column(source, sa.Text), sa.Column(target, sa.Text))
    text, folded = table.c[source], table.c[target]
    todo = sa.select(table.c.id, text).where(text != "", sa.func.coalesce(folded, "") == "").order_by(table.c.id)
    update = sa.update(table).where(table.c.id == sa.bindparam("row")).values({target: sa.bindparam("made")})
    connection, last = op.get_bind(), None
    while rows := connection.execute((todo if last is None else todo.where(table.c.id > last)).limit(BATCH)).all():
        connection.execute(update, [{"row": row, "made": made(content)} for row, content in rows])
        last = rows[-1][0]


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().replace(FILLER, "")


def _searchable(text: str) -> str:
    """As the code of this revision stores it."""
    return SYLLABLES.sub(lambda run: FILLER + "".join(one + FILLER for one in run[0]), _folded(text))


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # The extension stays: it may be older than this revision, and used by others.
        with op.get_context().autocommit_block():
            for name in INDEXES:
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    else:
        for trigger in SQLITE_TRIGGERS:
            op.execute(f"DROP TRIGGER {trigger}")
        op.drop_table("message_search")
        op.drop_table("message_search_rows")
        op.drop_index("ix_messages_owner_id", "messages")
        op.drop_index("ix_sessions_owner_user_id", "sessions")
    op.drop_column("messages", "search_text")
    op.drop_column("sessions", "search_title")
