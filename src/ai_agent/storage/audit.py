"""The audit log: entries are written in the transaction of what they tell."""

import msgspec
import sqlalchemy as sa

from ai_agent.domain.audit import Action, Actor, AuditEntry, Details, Target
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.storage.database import Connection
from ai_agent.storage.keyset import Listing
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import audit_log

LIST = Listing(audit_log, AuditEntry, owned=False)

_INSERT: Statement[None] = Statement(sa.insert(audit_log).values({c.name: sa.bindparam(c.name) for c in audit_log.c}))


async def record(
    rows: Connection, actor: Actor, action: Action, target: Target, details: Details | None = None
) -> None:
    """Adds an entry. `details` hold names and numbers, never a secret."""
    entry = AuditEntry(
        id=new_id(),
        actor=actor.name,
        key_id=actor.key_id,
        action=action,
        target_type=target.type,
        target_id=target.id,
        details=to_json(details or {}),
        address=actor.address,
        correlation_id=actor.correlation_id,
        created_at=now(),
    )
    await rows.run(_INSERT, **msgspec.structs.asdict(entry))
