"""surviving executions

What a run needs to survive its worker: its state, its tool calls, its webhooks; and events in the outbox, in order.
`execution_events` stays for nodes of the release before, and is written no more.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from ai_agent.storage.migrations import build_indexes

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(sa.Text(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite")
ID = sa.Uuid().with_variant(sa.String(length=36), "sqlite")


def _added() -> "list[sa.Column[Any]]":
    return [
        sa.Column("on_busy", sa.String(16), nullable=False, server_default="reject"),
        sa.Column("rolls_back", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("callback_url", sa.String(2048)),
        sa.Column("latency_ms", sa.Integer()),
        sa.Column("first_token_ms", sa.Integer()),
        sa.Column("input_tokens", sa.Integer()),
        sa.Column("output_tokens", sa.Integer()),
        sa.Column("cost", sa.Float()),
        sa.Column("tool_call_count", sa.Integer(), nullable=False, server_default="0"),
    ]


INDEXES = {
    "ix_executions_owner_queued_at": ["owner_id", "queued_at", "id"],
    "ix_executions_agent_queued_at": [
        *("owner_id", "agent_id", "queued_at", "id", "status", "latency_ms", "first_token_ms"),
        *("input_tokens", "output_tokens", "cost", "tool_call_count"),
    ],
    "ix_executions_session_queued_at": ["session_id", "queued_at", "id"],
}


def _id(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, ID, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, TIME, nullable=nullable)


def _of_execution(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_execution_id")
    return sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], name=name, ondelete="CASCADE")


def upgrade() -> None:
    _add_columns()  # First, with their indexes: on PostgreSQL these are committed by themselves, and may be done again.
    _create_indexes()
    op.drop_table("outbox")  # Nothing was ever written to it.
    _create_outbox()
    op.create_table(
        "execution_states",
        _id("execution_id"),
        sa.Column("state", JSON, nullable=False),
        _of_execution("execution_states"),
        sa.PrimaryKeyConstraint("execution_id", name=op.f("pk_execution_states")),
    )
    _create_tool_calls()
    _create_webhook_deliveries()
    _create_tools()


def _add_columns() -> None:
    again = None if op.get_bind().dialect.name == "sqlite" else True
    for column in _added():
        op.add_column("executions", column, if_not_exists=again)


def _create_indexes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name, columns in INDEXES.items():
            op.create_index(name, "executions", columns)
        return
    build_indexes({name: f"executions ({', '.join(columns)})" for name, columns in INDEXES.items()})


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        _id("eid"),
        sa.Column("channel", sa.String(300), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False, server_default="0"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_channel", "outbox", ["channel", "seq"])


def _create_tool_calls() -> None:
    op.create_table(
        "tool_calls",
        _id("execution_id"),
        sa.Column("call_id", sa.String(255), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("arguments", JSON, nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("output", JSON),
        sa.Column("is_error", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("decision", sa.String(16)),
        sa.Column("reason", sa.Text()),
        sa.Column("duration_ms", sa.Integer()),
        _time("expires_at", nullable=True),
        _time("created_at"),
        _time("finished_at", nullable=True),
        _of_execution("tool_calls"),
        sa.PrimaryKeyConstraint("execution_id", "call_id", name=op.f("pk_tool_calls")),
    )
    open_calls = sa.text("status IN ('awaiting_approval', 'awaiting_result')")
    op.create_index(
        "ix_tool_calls_expires_at",
        "tool_calls",
        ["expires_at"],
        postgresql_where=open_calls,
        sqlite_where=open_calls,
    )


def _create_webhook_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        _id("id"),
        sa.Column("owner_id", sa.String(255), nullable=False),
        _id("execution_id"),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        _time("next_attempt_at", nullable=True),
        sa.Column("response_status", sa.Integer()),
        sa.Column("error", sa.Text()),
        _time("created_at"),
        _time("finished_at", nullable=True),
        _of_execution("webhook_deliveries"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index("ix_webhook_deliveries_execution_id", "webhook_deliveries", ["execution_id", "id"])
    pending = sa.text("status = 'pending'")
    op.create_index(
        "ix_webhook_deliveries_next_attempt_at",
        "webhook_deliveries",
        ["next_attempt_at"],
        postgresql_where=pending,
        sqlite_where=pending,
    )


def _create_tools() -> None:
    op.create_table(
        "tools",
        _id("id"),
        sa.Column("owner_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("schema", JSON, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("config", JSON, nullable=False),
        _id("mcp_server_id", nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("requires_approval", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("secrets", JSON, nullable=False, server_default="{}"),
        sa.Column("search_text", sa.Text(), nullable=False, server_default=""),
        sa.Column("row_version", sa.Integer(), nullable=False, server_default="1"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tools")),
        sa.UniqueConstraint("owner_id", "name", name=op.f("uq_tools_owner_id_name")),
    )
    op.create_index("ix_tools_owner_created_at", "tools", ["owner_id", "created_at", "id"])
    op.create_index("ix_tools_owner_updated_at", "tools", ["owner_id", "updated_at", "id"])


def downgrade() -> None:
    for table in ("tools", "webhook_deliveries", "tool_calls", "execution_states", "outbox"):
        op.drop_table(table)
    op.create_table(
        "outbox",
        _id("id"),
        sa.Column("channel", sa.String(300), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("data", JSON, nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    for name in INDEXES:
        op.drop_index(name, "executions")
    for column in reversed(_added()):
        op.drop_column("executions", column.name)
