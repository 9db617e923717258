"""agent versions, and secrets of agents

What is searched of an agent is stored folded.
"""

import unicodedata

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FILLER = "\u115f"
COPIED = "name, description, system_prompt, model_config, tools, metadata"


def upgrade() -> None:
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "secrets", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), server_default="{}", nullable=False
            )
        )
        batch_op.add_column(sa.Column("search_text", sa.Text(), server_default="", nullable=False))
    _fold_agents()

    op.create_table(
        "agent_versions",
        sa.Column("agent_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("system_prompt", sa.Text(), nullable=True),
        sa.Column("model_config", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("tools", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("metadata", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("secrets", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), server_default="{}", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["agents.id"], name=op.f("fk_agent_versions_agent_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("agent_id", "version", name=op.f("pk_agent_versions")),
    )
    # Of agents that were there before, only what they are now is known.
    op.execute(
        f"INSERT INTO agent_versions (agent_id, version, owner_id, {COPIED}, created_at) "  # noqa: S608  # names of ours
        f"SELECT id, version, owner_id, {COPIED}, updated_at FROM agents"
    )


def _fold_agents() -> None:
    identity = sa.Column("id", sa.Uuid().with_variant(sa.String(36), "sqlite"))
    texts = (sa.Column(name, sa.Text) for name in ("name", "description", "search_text"))
    agents = sa.Table("agents", sa.MetaData(), identity, *texts)
    update = sa.update(agents).where(agents.c.id == sa.bindparam("row")).values(search_text=sa.bindparam("folded"))
    connection = op.get_bind()
    for row, name, description in connection.execute(sa.select(*list(agents.c)[:3])).all():
        # As the code of this revision stores it.
        text = unicodedata.normalize("NFC", f"{name}\n{description or ''}").casefold().replace(FILLER, "")
        connection.execute(update, {"row": row, "folded": text})


def downgrade() -> None:
    op.drop_table("agent_versions")
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.drop_column("search_text")
        batch_op.drop_column("secrets")
