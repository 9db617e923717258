"""agent versions, and secrets of agents

What is searched of an agent is stored folded.
"""

import unicodedata
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BATCH = 200
FILLER = "\u115f"
COPIED = ("name", "description", "system_prompt", "model_config", "tools", "metadata")


def _json(name: str, **options: Any) -> "sa.Column[Any]":
    kind = postgresql.JSONB().with_variant(sa.Text(), "sqlite")
    return sa.Column(name, kind, nullable=False, **options)


def _id(name: str) -> "sa.Column[Any]":
    return sa.Column(name, sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False)


def upgrade() -> None:
    """A second try goes on where the first one stopped: what an autocommit block has done is committed."""
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    op.add_column("agents", _json("secrets", server_default="{}"), if_not_exists=on_postgresql or None)
    column = sa.Column("search_text", sa.Text(), server_default="", nullable=False)
    op.add_column("agents", column, if_not_exists=on_postgresql or None)
    _create_versions(if_not_exists=on_postgresql)
    if not on_postgresql:
        _fill()
        return
    with op.get_context().autocommit_block():
        # The columns are there for all: nobody waits while they are filled.
        _fill()


def _create_versions(*, if_not_exists: bool) -> None:
    time = sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite")
    op.create_table(
        "agent_versions",
        _id("agent_id"),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("system_prompt", sa.Text(), nullable=True),
        _json("model_config"),
        _json("tools"),
        _json("metadata"),
        _json("secrets", server_default="{}"),
        sa.Column("created_at", time, nullable=False),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["agents.id"], name=op.f("fk_agent_versions_agent_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("agent_id", "version", name=op.f("pk_agent_versions")),
        if_not_exists=if_not_exists,
    )


def _fill() -> None:
    """Folds the texts, and makes the version that each agent is at: of those before, nothing is known."""
    texts = (sa.Column(name, sa.Text) for name in ("name", "description", "search_text"))
    agents = sa.Table("agents", sa.MetaData(), _id("id"), *texts)
    fold = sa.update(agents).where(agents.c.id == sa.bindparam("row")).values(search_text=sa.bindparam("folded"))
    columns = ", ".join(COPIED)
    keep = sa.text(
        f"INSERT INTO agent_versions (agent_id, version, owner_id, {columns}, created_at) "  # noqa: S608  # names of ours
        f"SELECT id, version, owner_id, {columns}, updated_at FROM agents WHERE id = :row ON CONFLICT DO NOTHING"
    ).bindparams(sa.bindparam("row", type_=agents.c.id.type))
    todo = sa.select(*list(agents.c)[:3]).order_by(agents.c.id).limit(BATCH)
    connection, last = op.get_bind(), None
    while rows := connection.execute(todo if last is None else todo.where(agents.c.id > last)).all():
        connection.execute(fold, [{"row": row, "folded": _folded(name, about)} for row, name, about in rows])
        connection.execute(keep, [{"row": row} for row, *_ in rows])
        last = rows[-1][0]


def _folded(name: str, description: str | None) -> str:
    """As the code of this revision stores it."""
    return unicodedata.normalize("NFC", f"{name}\n{description or ''}").casefold().replace(FILLER, "")


def downgrade() -> None:
    op.drop_table("agent_versions")
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.drop_column("search_text")
        batch_op.drop_column("secrets")
