"""The tables, as SQLAlchemy Core. Migrations are written from here; a test holds the two together.

Ids are UUIDv7, times are UTC. On SQLite ids, times and JSON are text; ids and times sort like their values.
"""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = sa.Uuid().with_variant(sa.String(36), "sqlite")
Time = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
# Not jsonb, which rewrites numbers and the order of names: what a client gave is what it gets.
Json = sa.JSON().with_variant(sa.Text(), "sqlite")


def _id(name: str, *args: sa.ForeignKey, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, Id, *args, nullable=nullable)


def _json(name: str) -> "sa.Column[Any]":
    return sa.Column(name, Json, nullable=False)


def _secrets() -> "sa.Column[Any]":
    """By field, sealed by the secret box."""
    return sa.Column("secrets", Json, nullable=False, server_default="{}")


def _time(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, Time, nullable=nullable)


sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    sa.Column("user_id", sa.String(255)),
    sa.Column("title", sa.String(500)),
    # The title, folded by `domain/search.py`: both databases find the same in any script.
    sa.Column("search_title", sa.Text),
    _json("metadata"),
    sa.Column("message_count", sa.Integer, nullable=False, server_default="0"),
    # The next message's place. It never goes back, so a place is never given twice.
    sa.Column("next_position", sa.Integer, nullable=False, server_default="0"),
    _time("last_activity"),
    sa.Column("status", sa.String(16), nullable=False, server_default="idle"),
    sa.Column("row_version", sa.Integer, nullable=False, server_default="1"),
    _time("created_at"),
    _time("updated_at"),
    sa.Index("ix_sessions_owner_last_activity", "owner_id", "last_activity", "id"),
    sa.Index("ix_sessions_owner_created_at", "owner_id", "created_at", "id"),
    sa.Index("ix_sessions_owner_updated_at", "owner_id", "updated_at", "id"),
    # A page of one end user costs what any page costs, however many sessions the owner has.
    sa.Index("ix_sessions_owner_user_id", "owner_id", "user_id", "last_activity", "id"),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("system_prompt", sa.Text),
    _json("model_config"),
    _json("tools"),
    sa.Column("status", sa.String(16), nullable=False, server_default="idle"),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    _json("metadata"),
    _secrets(),
    sa.Column("row_version", sa.Integer, nullable=False, server_default="1"),
    _time("created_at"),
    _time("updated_at"),
    # Name and description, folded.
    sa.Column("search_text", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("owner_id", "name"),
    sa.Index("ix_agents_owner_created_at", "owner_id", "created_at", "id"),
    sa.Index("ix_agents_owner_updated_at", "owner_id", "updated_at", "id"),
)

agent_versions = sa.Table(
    "agent_versions",
    metadata,
    sa.Column("agent_id", Id, sa.ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("system_prompt", sa.Text),
    _json("model_config"),
    _json("tools"),
    _json("metadata"),
    _secrets(),
    _time("created_at"),
)

# On SQLite triggers keep the index of the search, `message_search` (migration 0003): whoever makes this table anew, as
# batch migrations do, makes them anew, too.
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    _id("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE")),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    # The content, folded by `domain/search.py`.
    sa.Column("search_text", sa.Text, nullable=False, server_default=""),
    _json("metadata"),
    _json("tool_calls"),
    _id("parent_message_id", sa.ForeignKey("messages.id", ondelete="SET NULL"), nullable=True),
    # No foreign keys: a message outlives the agent and the run that wrote it.
    _id("agent_id", nullable=True),
    _id("execution_id", nullable=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("row_version", sa.Integer, nullable=False, server_default="1"),
    _time("created_at"),
    _time("updated_at"),
    sa.UniqueConstraint("session_id", "position"),
    sa.Index("ix_messages_parent_message_id", "parent_message_id"),
    sa.Index("ix_messages_owner_id", "owner_id", "id"),
    sa.Index(
        "ix_messages_search_text",
        "search_text",
        postgresql_using="gin",
        postgresql_ops={"search_text": "gin_trgm_ops"},
    ).ddl_if(dialect="postgresql"),
)

executions = sa.Table(
    "executions",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    # No foreign key: history outlives the agent.
    _id("agent_id"),
    sa.Column("agent_version", sa.Integer, nullable=False),
    _id("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE")),
    sa.Column("status", sa.String(16), nullable=False),
    _id("input_message_id", nullable=True),
    _id("output_message_id", nullable=True),
    sa.Column("error", Json),
    sa.Column("usage", Json),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    # Grows at every claim: a worker that lost its lease writes nothing more.
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
    _time("lease_until", nullable=True),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("timeout_seconds", sa.Float),
    _json("metadata"),
    sa.Column("correlation_id", sa.String(128)),
    # One live execution per session: the partial unique index below.
    sa.Column("holds_session", sa.Boolean, nullable=False),
    # What was asked for where the session is busy; of those that wait, who interrupts goes first.
    sa.Column("on_busy", sa.String(16), nullable=False, server_default="reject"),
    # Its messages go with it when it ends.
    sa.Column("rolls_back", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("lease_owner", sa.String(64)),
    sa.Column("callback_url", sa.String(2048)),
    sa.Column("epoch", sa.String(8), nullable=False),
    sa.Column("next_seq", sa.Integer, nullable=False, server_default="1"),
    # What metrics are made of, written at the end. Times count from `queued_at`.
    sa.Column("latency_ms", sa.Integer),
    sa.Column("first_token_ms", sa.Integer),
    sa.Column("input_tokens", sa.Integer),
    sa.Column("output_tokens", sa.Integer),
    sa.Column("cost", sa.Float),
    sa.Column("tool_call_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("row_version", sa.Integer, nullable=False, server_default="1"),
    _time("queued_at"),
    _time("started_at", nullable=True),
    _time("first_token_at", nullable=True),
    _time("finished_at", nullable=True),
    sa.Index(
        "uq_executions_live_session",
        "session_id",
        unique=True,
        postgresql_where=sa.text("holds_session"),
        sqlite_where=sa.text("holds_session"),
    ),
    sa.Index(
        "ix_executions_unfinished",
        "status",
        "lease_until",
        postgresql_where=sa.text("status IN ('queued', 'running')"),
        sqlite_where=sa.text("status IN ('queued', 'running')"),
    ),
    sa.Index("ix_executions_agent", "agent_id", "status"),
    sa.Index("ix_executions_session", "session_id"),
    sa.Index("ix_executions_owner_queued_at", "owner_id", "queued_at", "id"),
    # All that metrics of an agent read, so that they read nothing else.
    sa.Index(
        "ix_executions_agent_queued_at",
        *("owner_id", "agent_id", "queued_at", "id", "status", "latency_ms", "first_token_ms"),
        *("input_tokens", "output_tokens", "cost", "tool_call_count"),
    ),
    sa.Index("ix_executions_session_queued_at", "session_id", "queued_at", "id"),
)

# What a run has come to, for a worker that takes it over. A table of its own: it is large and seldom read.
execution_states = sa.Table(
    "execution_states",
    metadata,
    sa.Column("execution_id", Id, sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    _json("state"),
)

tool_calls = sa.Table(
    "tool_calls",
    metadata,
    sa.Column("execution_id", Id, sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    # The model's own name for it.
    sa.Column("call_id", sa.String(255), primary_key=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    _json("arguments"),
    sa.Column("status", sa.String(24), nullable=False),
    # As JSON, null until it has ended.
    sa.Column("output", Json),
    sa.Column("is_error", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("decision", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("duration_ms", sa.Integer),
    # Until when somebody may answer.
    _time("expires_at", nullable=True),
    _time("created_at"),
    _time("finished_at", nullable=True),
    sa.Index(
        "ix_tool_calls_expires_at",
        "expires_at",
        postgresql_where=sa.text("status IN ('awaiting_approval', 'awaiting_result')"),
        sqlite_where=sa.text("status IN ('awaiting_approval', 'awaiting_result')"),
    ),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    _id("execution_id", sa.ForeignKey("executions.id", ondelete="CASCADE")),
    sa.Column("url", sa.String(2048), nullable=False),
    sa.Column("event", sa.String(64), nullable=False),
    # The body, byte for byte as it is signed.
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # When it is tried next; a worker that tries moves it on first, so that no other one does.
    _time("next_attempt_at", nullable=True),
    sa.Column("response_status", sa.Integer),
    sa.Column("error", sa.Text),
    _time("created_at"),
    _time("finished_at", nullable=True),
    sa.Index("ix_webhook_deliveries_execution_id", "execution_id", "id"),
    sa.Index(
        "ix_webhook_deliveries_next_attempt_at",
        "next_attempt_at",
        postgresql_where=sa.text("status = 'pending'"),
        sqlite_where=sa.text("status = 'pending'"),
    ),
)

tools = sa.Table(
    "tools",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("description", sa.Text),
    _json("schema"),
    sa.Column("kind", sa.String(16), nullable=False),
    _json("config"),
    _id("mcp_server_id", nullable=True),
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("requires_approval", sa.Boolean, nullable=False, server_default=sa.false()),
    _json("metadata"),
    _secrets(),
    # Name and description, folded.
    sa.Column("search_text", sa.Text, nullable=False, server_default=""),
    sa.Column("row_version", sa.Integer, nullable=False, server_default="1"),
    _time("created_at"),
    _time("updated_at"),
    sa.UniqueConstraint("owner_id", "name"),
    sa.Index("ix_tools_owner_created_at", "owner_id", "created_at", "id"),
    sa.Index("ix_tools_owner_updated_at", "owner_id", "updated_at", "id"),
    sa.Index("ix_tools_mcp_server_id", "mcp_server_id", "created_at", "id"),
)

mcp_servers = sa.Table(
    "mcp_servers",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("transport", sa.String(16), nullable=False),
    sa.Column("endpoint", sa.Text),
    sa.Column("command", sa.String(64)),
    _json("authentication"),
    _secrets(),
    _json("capabilities"),
    sa.Column("protocol_version", sa.String(32)),
    sa.Column("health_check_url", sa.Text),
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("last_error", sa.Text),
    _time("last_seen_at", nullable=True),
    sa.Column("tool_count", sa.Integer, nullable=False, server_default="0"),
    _json("metadata"),
    # Checks that failed since the last one that did not.
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    # When it is asked next; who asks moves it ahead, and so keeps others from it.
    _time("next_check_at", nullable=True),
    # Name and description, folded.
    sa.Column("search_text", sa.Text, nullable=False, server_default=""),
    sa.Column("row_version", sa.Integer, nullable=False, server_default="1"),
    _time("created_at"),
    _time("updated_at"),
    sa.UniqueConstraint("owner_id", "name"),
    sa.Index("ix_mcp_servers_owner_created_at", "owner_id", "created_at", "id"),
    sa.Index("ix_mcp_servers_owner_updated_at", "owner_id", "updated_at", "id"),
    sa.Index("ix_mcp_servers_next_check_at", "next_check_at"),
)

# No more written: the event log keeps events. It goes when no node of a release that reads it is left.
execution_events = sa.Table(
    "execution_events",
    metadata,
    sa.Column("execution_id", Id, sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    _id("eid"),
    sa.Column("type", sa.String(64), nullable=False),
    _json("data"),
    _time("created_at"),
)

# Triggers announce each change of when a key or a family ends (migration 0009). On SQLite they are lost when a
# migration makes such a table anew, so that one has to make them anew, too.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", Id, primary_key=True),
    # HMAC-SHA-256 under the secret key, in hexadecimal: the key itself is nowhere.
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("owner_id", sa.String(255), nullable=False),
    _json("scopes"),
    sa.Column("tier", sa.String(16), nullable=False),
    _time("expires_at", nullable=True),
    _time("revoked_at", nullable=True),
    # The key that takes its place.
    _id("rotated_to", nullable=True),
    _time("last_used_at", nullable=True),
    _time("created_at"),
)

# What all nodes must hear of: a credential that was revoked, or whose row says something else now.
credential_changes = sa.Table(
    "credential_changes",
    metadata,
    # In the order of the commits, without a gap: see `sequences`.
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("credential", sa.String(80), nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
    # When nobody can hold the credential any more for other reasons.
    _time("until"),
    sa.Index("ix_credential_changes_until", "until"),
)

# What the operator allows one principal in place of its tier. Triggers announce each change (migration 0013).
rate_limit_overrides = sa.Table(
    "rate_limit_overrides",
    metadata,
    sa.Column("id", Id, primary_key=True),
    # The principal's subject.
    sa.Column("user_id", sa.String(255), nullable=False, unique=True),
    sa.Column("tier", sa.String(16)),
    _json("limits"),
    sa.Column("reason", sa.Text),
    _time("expires_at", nullable=True),
    _time("created_at"),
    _time("updated_at"),
)

# What began with one API key and is revoked as one: every refresh token and JWT that came of it.
token_families = sa.Table(
    "token_families",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner_id", sa.String(255), nullable=False),
    _id("key_id"),
    # Moves along with the newest refresh token.
    _time("expires_at"),
    _time("revoked_at", nullable=True),
    _time("created_at"),
    sa.Index("ix_token_families_expires_at", "expires_at"),
)

refresh_tokens = sa.Table(
    "refresh_tokens",
    metadata,
    # HMAC-SHA-256, as of an API key.
    sa.Column("digest", sa.String(64), primary_key=True),
    _id("family_id", sa.ForeignKey("token_families.id", ondelete="CASCADE")),
    # A used one is kept, so that a second use is noticed.
    _time("used_at", nullable=True),
    _time("expires_at"),
    _time("created_at"),
    sa.Index("ix_refresh_tokens_family_id", "family_id"),
    sa.Index("ix_refresh_tokens_expires_at", "expires_at"),
)

# A ticket holds the principal who asked for it; `valid_until` is when its credentials end.
ws_tickets = sa.Table(
    "ws_tickets",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("subject", sa.String(255), nullable=False),
    _json("scopes"),
    sa.Column("tier", sa.String(16), nullable=False),
    _id("key_id", nullable=True),
    _id("family_id", nullable=True),
    _time("valid_until", nullable=True),
    _time("expires_at"),
    sa.Index("ix_ws_tickets_expires_at", "expires_at"),
)

# Numbers in the order of commits: who takes one keeps the row's lock until its transaction ends.
sequences = sa.Table(
    "sequences",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# Triggers refuse to change or remove a row (migration 0006): it is only added to.
audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("actor", sa.String(255), nullable=False),
    _id("key_id", nullable=True),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target_type", sa.String(32), nullable=False),
    sa.Column("target_id", sa.String(255), nullable=False),
    _json("details"),
    sa.Column("address", sa.String(64)),
    sa.Column("correlation_id", sa.String(128)),
    _time("created_at"),
    sa.Index("ix_audit_log_created_at", "created_at", "id"),
    sa.Index("ix_audit_log_actor", "actor", "created_at", "id"),
    sa.Index("ix_audit_log_target", "target_id", "created_at", "id"),
)

# Events that are committed with the change that they tell of, until the event log has them.
outbox = sa.Table(
    "outbox",
    metadata,
    # In order within a channel: whoever writes to one holds the row that the channel is about.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _id("eid"),
    sa.Column("channel", sa.String(300), nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    _json("data"),
    # Under which a worker held its run.
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
    _time("created_at"),
    sa.Index("ix_outbox_channel", "channel", "seq"),
    sqlite_autoincrement=True,
)

# The last number of each lane of a user's queue. Who appends holds the row.
inbox_lanes = sa.Table(
    "inbox_lanes",
    metadata,
    sa.Column("user_id", sa.String(255), primary_key=True),
    sa.Column("lane", sa.SmallInteger, primary_key=True),
    sa.Column("top", sa.BigInteger, nullable=False),
)

_waiting = sa.text("acked_at IS NULL AND dead_at IS NULL")
_dead = sa.text("dead_at IS NOT NULL")

# What has to reach a user, and what became of it.
inbox = sa.Table(
    "inbox",
    metadata,
    sa.Column("user_id", sa.String(255), primary_key=True),
    sa.Column("lane", sa.SmallInteger, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    _id("eid"),
    sa.Column("type", sa.String(64), nullable=False),
    _json("data"),
    sa.Column("sender", sa.String(255)),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("acked_by", sa.String(255)),
    _time("created_at"),
    _time("stored_at"),
    _time("expires_at", nullable=True),
    # When the present try began; none where a client has asked for another one.
    _time("sent_at", nullable=True),
    # A client wants to be told no sooner.
    _time("held_until", nullable=True),
    _time("acked_at", nullable=True),
    _time("dead_at", nullable=True),
    sa.UniqueConstraint("eid"),
    sa.Index("ix_inbox_waiting", "user_id", "lane", "seq", postgresql_where=_waiting, sqlite_where=_waiting),
    sa.Index("ix_inbox_dead", "dead_at", "eid", postgresql_where=_dead, sqlite_where=_dead),
    sa.Index("ix_inbox_created_at", "lane", "created_at"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("owner_id", sa.String(255), primary_key=True),
    sa.Column("path", sa.String(1024), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("body_digest", sa.String(64), nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("headers", Json),
    sa.Column("body", sa.LargeBinary),
    # What the key made, where its answer is not a stored one: a repeat attaches to it.
    _id("execution_id", nullable=True),
    _time("lease_until", nullable=True),
    _time("created_at"),
    sa.Index("ix_idempotency_keys_created_at", "created_at"),
)
