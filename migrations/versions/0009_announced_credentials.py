"""announced credentials

Triggers tell every node of a key or family that ends, whoever ends it: code of before, too, and SQL by hand.
On PostgreSQL they run when the transaction commits, so nobody keeps the sequence's row while he thinks or is frozen.
A change is told for an hour and half a minute, the longest that a token made from the credential can be good.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

CHANGED = {
    "api_keys": ("key", ("revoked_at", "expires_at")),
    "token_families": ("family", ("revoked_at",)),
}

# No statement's time ends what runs in a COMMIT, so it has a time of its own.
POSTGRESQL_FUNCTION = """CREATE FUNCTION announce_credential() RETURNS trigger
    LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
    DECLARE next bigint;
    BEGIN
        UPDATE sequences SET value = value + 1 WHERE name = 'credential_changes' RETURNING value INTO next;
        INSERT INTO credential_changes (seq, credential, revoked, until)
        VALUES (next, TG_ARGV[0] || ':' || NEW.id, NEW.revoked_at IS NOT NULL, now() + interval '3630 seconds');
        RETURN NULL;
    END $$"""
POSTGRESQL = """CREATE CONSTRAINT TRIGGER {table}_announced AFTER UPDATE OF {columns} ON {table}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ({changed}) EXECUTE FUNCTION announce_credential('{kind}')"""
SQLITE = """CREATE TRIGGER {table}_announced AFTER UPDATE OF {columns} ON {table} WHEN {changed}
    BEGIN
        UPDATE sequences SET value = value + 1 WHERE name = 'credential_changes';
        INSERT INTO credential_changes (seq, credential, revoked, until)
        SELECT value, '{kind}:' || NEW.id, NEW.revoked_at IS NOT NULL,
            strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '+3630 seconds')
        FROM sequences WHERE name = 'credential_changes';
    END"""


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        op.execute(POSTGRESQL_FUNCTION)
    trigger, differs = (POSTGRESQL, "IS DISTINCT FROM") if postgresql else (SQLITE, "IS NOT")
    for table, (kind, columns) in CHANGED.items():
        changed = " OR ".join(f"OLD.{column} {differs} NEW.{column}" for column in columns)
        op.execute(trigger.format(table=table, kind=kind, columns=", ".join(columns), changed=changed))


def downgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    for table in CHANGED:
        op.execute(f"DROP TRIGGER {table}_announced" + (f" ON {table}" if postgresql else ""))
    if postgresql:
        op.execute("DROP FUNCTION announce_credential()")
