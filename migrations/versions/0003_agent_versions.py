"""agent versions, and secrets of agents"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COPIED = "name, description, system_prompt, model_config, tools, metadata"


def upgrade() -> None:
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "secrets", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), server_default="{}", nullable=False
            )
        )

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


def downgrade() -> None:
    op.drop_table("agent_versions")
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.drop_column("secrets")
