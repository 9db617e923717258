"""Secrets under the newest key: what `rotate-secrets` does, in batches, beside a server that runs."""

from uuid import UUID

import msgspec

from ai_agent.domain.fields import StoredJson
from ai_agent.security.secret_box import SecretBox, UnreadableSecret
from ai_agent.security.secret_fields import SecretFields
from ai_agent.storage.database import Database
from ai_agent.storage.secrets import BEGIN, SealedRow, SealedTable

BATCH = 100


class Rotation(msgspec.Struct):
    """What became of a table's secrets. `unreadable` are the rows that no key opens."""

    table: str
    rows: int = 0
    resealed: int = 0
    unreadable: list[UUID] = []


async def rotate(database: Database, box: SecretBox, table: SealedTable) -> Rotation:
    """Brings a table's secrets under the newest key. What is there already stays, so it may be done again."""
    done, fields, last = Rotation(table.name), SecretFields(box, table.resource), BEGIN
    while batch := await table.after(database.reader, last, BATCH):
        fresh = _resealed(fields, batch, done)
        if fresh:
            async with database.unit_of_work() as rows:
                await table.replace(rows, fresh)
        done.rows += len(batch)
        done.resealed += len(fresh)
        last = batch[-1]
    return done


def _resealed(fields: SecretFields, batch: list[SealedRow], done: Rotation) -> list[tuple[SealedRow, StoredJson]]:
    changes = []
    for row in batch:
        try:
            fresh = fields.reseal(row.id, row.secrets)
        except UnreadableSecret:
            done.unreadable.append(row.id)
            continue
        if fresh is not None:
            changes.append((row, fresh))
    return changes
