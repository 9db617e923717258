"""conversations agents executions keys"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("system_prompt", sa.Text(), nullable=True),
        sa.Column("model_config", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("tools", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("status", sa.String(length=16), server_default="idle", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("metadata", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("row_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
        sa.UniqueConstraint("owner_id", "name", name=op.f("uq_agents_owner_id_name")),
    )
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.create_index("ix_agents_owner_created_at", ["owner_id", "created_at", "id"], unique=False)
        batch_op.create_index("ix_agents_owner_updated_at", ["owner_id", "updated_at", "id"], unique=False)

    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("scopes", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("tier", sa.String(length=16), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=True),
        sa.Column(
            "last_used_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=True
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column(
            "lease_until", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=True
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.PrimaryKeyConstraint("owner_id", "path", "key", name=op.f("pk_idempotency_keys")),
    )
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.create_index("ix_idempotency_keys_created_at", ["created_at"], unique=False)

    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("channel", sa.String(length=300), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("data", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("title", sa.String(length=500), nullable=True),
        sa.Column("metadata", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("message_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_position", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "last_activity", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.Column("status", sa.String(length=16), server_default="idle", nullable=False),
        sa.Column("row_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.create_index("ix_sessions_owner_created_at", ["owner_id", "created_at", "id"], unique=False)
        batch_op.create_index("ix_sessions_owner_last_activity", ["owner_id", "last_activity", "id"], unique=False)
        batch_op.create_index("ix_sessions_owner_updated_at", ["owner_id", "updated_at", "id"], unique=False)

    op.create_table(
        "executions",
        sa.Column("id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("agent_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("agent_version", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("input_message_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=True),
        sa.Column("output_message_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=True),
        sa.Column("error", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=True),
        sa.Column("usage", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "lease_until", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=True
        ),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("timeout_seconds", sa.Float(), nullable=True),
        sa.Column("metadata", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("correlation_id", sa.String(length=128), nullable=True),
        sa.Column("holds_session", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.String(length=8), nullable=False),
        sa.Column("next_seq", sa.Integer(), server_default="1", nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=True),
        sa.Column(
            "first_token_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=True
        ),
        sa.Column(
            "finished_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=True
        ),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_executions_session_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executions")),
    )
    with op.batch_alter_table("executions", schema=None) as batch_op:
        batch_op.create_index("ix_executions_agent", ["agent_id", "status"], unique=False)
        batch_op.create_index("ix_executions_session", ["session_id"], unique=False)
        batch_op.create_index(
            "ix_executions_unfinished",
            ["status", "lease_until"],
            unique=False,
            postgresql_where=sa.text("status IN ('queued', 'running')"),
            sqlite_where=sa.text("status IN ('queued', 'running')"),
        )
        batch_op.create_index(
            "uq_executions_live_session",
            ["session_id"],
            unique=True,
            postgresql_where=sa.text("holds_session"),
            sqlite_where=sa.text("holds_session"),
        )

    op.create_table(
        "messages",
        sa.Column("id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("session_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("metadata", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("tool_calls", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("parent_message_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=True),
        sa.Column("agent_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=True),
        sa.Column("execution_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("row_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["parent_message_id"], ["messages.id"], name=op.f("fk_messages_parent_message_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_messages_session_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("session_id", "position", name=op.f("uq_messages_session_id_position")),
    )
    with op.batch_alter_table("messages", schema=None) as batch_op:
        batch_op.create_index("ix_messages_parent_message_id", ["parent_message_id"], unique=False)

    op.create_table(
        "execution_events",
        sa.Column("execution_id", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("eid", sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("data", postgresql.JSONB().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_execution_events_execution_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("execution_id", "seq", name=op.f("pk_execution_events")),
    )


def downgrade() -> None:
    op.drop_table("execution_events")
    with op.batch_alter_table("messages", schema=None) as batch_op:
        batch_op.drop_index("ix_messages_parent_message_id")

    op.drop_table("messages")
    with op.batch_alter_table("executions", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_executions_live_session",
            postgresql_where=sa.text("holds_session"),
            sqlite_where=sa.text("holds_session"),
        )
        batch_op.drop_index(
            "ix_executions_unfinished",
            postgresql_where=sa.text("status IN ('queued', 'running')"),
            sqlite_where=sa.text("status IN ('queued', 'running')"),
        )
        batch_op.drop_index("ix_executions_session")
        batch_op.drop_index("ix_executions_agent")

    op.drop_table("executions")
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.drop_index("ix_sessions_owner_updated_at")
        batch_op.drop_index("ix_sessions_owner_last_activity")
        batch_op.drop_index("ix_sessions_owner_created_at")

    op.drop_table("sessions")
    op.drop_table("outbox")
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.drop_index("ix_idempotency_keys_created_at")

    op.drop_table("idempotency_keys")
    op.drop_table("api_keys")
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.drop_index("ix_agents_owner_updated_at")
        batch_op.drop_index("ix_agents_owner_created_at")

    op.drop_table("agents")
