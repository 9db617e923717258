"""mcp servers

Where tools come from that others have built, and how each of them was when it was asked last.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from ai_agent.storage.migrations import build_indexes

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(sa.Text(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite")
ID = sa.Uuid().with_variant(sa.String(length=36), "sqlite")


def _time(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, TIME, nullable=nullable)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.create_index("ix_tools_mcp_server_id", "tools", ["mcp_server_id", "created_at", "id"])
    else:
        build_indexes({"ix_tools_mcp_server_id": "tools (mcp_server_id, created_at, id)"})
    op.create_table(
        "mcp_servers",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner_id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("transport", sa.String(16), nullable=False),
        sa.Column("endpoint", sa.Text()),
        sa.Column("command", sa.String(64)),
        sa.Column("authentication", JSON, nullable=False),
        sa.Column("secrets", JSON, nullable=False, server_default="{}"),
        sa.Column("capabilities", JSON, nullable=False),
        sa.Column("protocol_version", sa.String(32)),
        sa.Column("health_check_url", sa.Text()),
        sa.Column("enabled", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("last_error", sa.Text()),
        _time("last_seen_at", nullable=True),
        sa.Column("tool_count", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        _time("next_check_at", nullable=True),
        sa.Column("search_text", sa.Text(), nullable=False, server_default=""),
        sa.Column("row_version", sa.Integer(), nullable=False, server_default="1"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mcp_servers")),
        sa.UniqueConstraint("owner_id", "name", name=op.f("uq_mcp_servers_owner_id_name")),
    )
    op.create_index("ix_mcp_servers_owner_created_at", "mcp_servers", ["owner_id", "created_at", "id"])
    op.create_index("ix_mcp_servers_owner_updated_at", "mcp_servers", ["owner_id", "updated_at", "id"])
    op.create_index("ix_mcp_servers_next_check_at", "mcp_servers", ["next_check_at"])


def downgrade() -> None:
    op.drop_table("mcp_servers")
    op.drop_index("ix_tools_mcp_server_id", table_name="tools")
