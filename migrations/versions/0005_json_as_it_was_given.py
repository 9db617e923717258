"""json as it was given

`jsonb` rewrites numbers (1e300 becomes 301 digits), drops the sign of zero and turns names around. Each table is
written anew while nobody reads it: this is from before the first release, when they are small.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = {
    "sessions": ("metadata",),
    "messages": ("metadata", "tool_calls"),
    "agents": ("model_config", "tools", "metadata", "secrets"),
    "agent_versions": ("model_config", "tools", "metadata", "secrets"),
    "executions": ("metadata", "error", "usage"),
    "execution_events": ("data",),
    "api_keys": ("scopes",),
    "outbox": ("data",),
    "idempotency_keys": ("headers",),
}


def upgrade() -> None:
    for statement in _changes("json"):
        op.execute(statement)


def downgrade() -> None:
    for statement in _changes("jsonb"):
        op.execute(statement)


def _changes(kind: str) -> list[str]:
    """None on SQLite, where it is text in any case."""
    if op.get_bind().dialect.name == "sqlite":
        return []
    changes = {
        table: ", ".join(f"ALTER COLUMN {name} TYPE {kind} USING {name}::{kind}" for name in columns)
        for table, columns in COLUMNS.items()
    }
    return [f"ALTER TABLE {table} {change}" for table, change in changes.items()]
