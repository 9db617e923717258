"""rate limit overrides

What the operator allows one principal in place of its tier. Every node hears of a change as it does of a credential's
(migration 0009): nodes of the release before take `limits:*` for a credential that nobody has.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(sa.Text(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(length=27), "sqlite")
ID = sa.Uuid().with_variant(sa.String(length=36), "sqlite")

POSTGRESQL_FUNCTION = """CREATE FUNCTION announce_limits() RETURNS trigger
    LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
    DECLARE next bigint;
    BEGIN
        UPDATE sequences SET value = value + 1 WHERE name = 'credential_changes' RETURNING value INTO next;
        INSERT INTO credential_changes (seq, credential, revoked, until)
        VALUES (next, 'limits:*', false, now() + interval '3630 seconds');
        RETURN NULL;
    END $$"""
POSTGRESQL = """CREATE CONSTRAINT TRIGGER rate_limit_overrides_announced
    AFTER INSERT OR UPDATE OR DELETE ON rate_limit_overrides
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION announce_limits()"""
SQLITE = """CREATE TRIGGER rate_limit_overrides_{event}_announced AFTER {event} ON rate_limit_overrides
    BEGIN
        UPDATE sequences SET value = value + 1 WHERE name = 'credential_changes';
        INSERT INTO credential_changes (seq, credential, revoked, until)
        SELECT value, 'limits:*', 0, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '+3630 seconds')
        FROM sequences WHERE name = 'credential_changes';
    END"""


def upgrade() -> None:
    op.create_table(
        "rate_limit_overrides",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("tier", sa.String(16)),
        sa.Column("limits", JSON, nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("expires_at", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rate_limit_overrides")),
        sa.UniqueConstraint("user_id", name=op.f("uq_rate_limit_overrides_user_id")),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(POSTGRESQL_FUNCTION)
        op.execute(POSTGRESQL)
    else:
        for event in ("insert", "update", "delete"):
            op.execute(SQLITE.format(event=event))


def downgrade() -> None:
    op.drop_table("rate_limit_overrides")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION announce_limits()")
