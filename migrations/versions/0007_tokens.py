"""tokens

Families of tokens, their refresh tokens, and tickets for sockets. Only digests of secrets are kept.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _id(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.Uuid().with_variant(sa.String(length=36), "sqlite"), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite"), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "token_families",
        _id("id"),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        _id("key_id"),
        _time("expires_at"),
        _time("revoked_at", nullable=True),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token_families")),
    )
    op.create_index("ix_token_families_expires_at", "token_families", ["expires_at"])
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.String(length=64), nullable=False),
        _id("family_id"),
        _time("used_at", nullable=True),
        _time("expires_at"),
        _time("created_at"),
        sa.ForeignKeyConstraint(
            ["family_id"], ["token_families.id"], name=op.f("fk_refresh_tokens_family_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_refresh_tokens")),
    )
    op.create_index("ix_refresh_tokens_family_id", "refresh_tokens", ["family_id"])
    op.create_index("ix_refresh_tokens_expires_at", "refresh_tokens", ["expires_at"])
    op.create_table(
        "ws_tickets",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("scopes", sa.JSON().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("tier", sa.String(length=16), nullable=False),
        _id("key_id", nullable=True),
        _id("family_id", nullable=True),
        _time("valid_until", nullable=True),
        _time("expires_at"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_ws_tickets")),
    )
    op.create_index("ix_ws_tickets_expires_at", "ws_tickets", ["expires_at"])


def downgrade() -> None:
    op.drop_table("ws_tickets")
    op.drop_table("refresh_tokens")
    op.drop_table("token_families")
