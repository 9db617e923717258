"""user queues

What has to reach a user who may be away: kept in lanes until it is acknowledged.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(sa.Text(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite")
ID = sa.Uuid().with_variant(sa.String(length=36), "sqlite")


def _time(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, TIME, nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "inbox_lanes",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("lane", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("top", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "lane", name=op.f("pk_inbox_lanes")),
    )
    op.create_table(
        "inbox",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("lane", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("eid", ID, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("sender", sa.String(255)),
        sa.Column("tries", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("acked_by", sa.String(255)),
        _time("created_at"),
        _time("stored_at"),
        _time("expires_at", nullable=True),
        _time("sent_at", nullable=True),
        _time("held_until", nullable=True),
        _time("acked_at", nullable=True),
        _time("dead_at", nullable=True),
        sa.PrimaryKeyConstraint("user_id", "lane", "seq", name=op.f("pk_inbox")),
        sa.UniqueConstraint("eid", name=op.f("uq_inbox_eid")),
    )
    waiting = sa.text("acked_at IS NULL AND dead_at IS NULL")
    op.create_index(
        "ix_inbox_waiting", "inbox", ["user_id", "lane", "seq"], postgresql_where=waiting, sqlite_where=waiting
    )
    dead = sa.text("dead_at IS NOT NULL")
    op.create_index("ix_inbox_dead", "inbox", ["dead_at", "eid"], postgresql_where=dead, sqlite_where=dead)
    op.create_index("ix_inbox_created_at", "inbox", ["lane", "created_at"])


def downgrade() -> None:
    op.drop_table("inbox")
    op.drop_table("inbox_lanes")
