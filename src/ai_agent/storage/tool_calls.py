"""Calls of tools in a run. Who changes one holds the execution's row."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ai_agent.domain.fields import StoredJson
from ai_agent.domain.tool_calls import ToolCall, ToolCallStatus
from ai_agent.storage.database import Connection, Reader
from ai_agent.storage.functions import seconds_from_now
from ai_agent.storage.statements import Statement
from ai_agent.storage.tables import tool_calls

OPEN = (ToolCallStatus.AWAITING_APPROVAL, ToolCallStatus.AWAITING_RESULT)
"""Those that somebody must answer first."""

_FIELDS = ToolCall.__struct_fields__
_COLUMNS = [tool_calls.c[name] for name in _FIELDS]
_of_run = tool_calls.c.execution_id == sa.bindparam("execution_id")
_one = (_of_run, tool_calls.c.call_id == sa.bindparam("call_id"))
_open = sa.or_(*(tool_calls.c.status == status.value for status in OPEN))
_due = tool_calls.c.expires_at < seconds_from_now(sa.literal_column("0"))

_ADD: Statement[None] = Statement(
    sa.insert(tool_calls).values({name: sa.bindparam(name) for name in ("execution_id", *_FIELDS)})
)
_OF_RUN = Statement(sa.select(*_COLUMNS).where(_of_run).order_by(tool_calls.c.step, tool_calls.c.created_at), ToolCall)
_GET = Statement(sa.select(*_COLUMNS).where(*_one), ToolCall)
_CHANGED = ("arguments", "status", "output", "is_error", "reason", "duration_ms", "expires_at", "finished_at")
_UPDATE: Statement[None] = Statement(
    sa.update(tool_calls)
    .where(*_one)
    .values(
        {name: sa.bindparam(name, type_=tool_calls.c[name].type) for name in _CHANGED}
        # The worker knows of no decision, and takes none back.
        | {"decision": sa.func.coalesce(sa.bindparam("decision", type_=sa.String), tool_calls.c.decision)}
    )
)
_COUNT_OPEN = Statement(sa.select(sa.func.count()).where(_of_run, _open), int)
_EXPIRED = Statement(
    sa.select(tool_calls.c.execution_id).where(_open, _due).group_by(tool_calls.c.execution_id).limit(100), UUID
)
_EXPIRE = Statement(
    sa.update(tool_calls)
    .where(_of_run, _open, _due)
    .values(status=ToolCallStatus.EXPIRED.value, finished_at=sa.bindparam("at"))
    .returning(*_COLUMNS),
    ToolCall,
)


async def keep(connection: Connection, execution_id: UUID, call: ToolCall) -> None:
    """Writes down a call as it is now."""
    values = _values(execution_id, call)
    if not await connection.run(_UPDATE, **values):
        await connection.run(_ADD, **values)


def _values(execution_id: UUID, call: ToolCall) -> dict[str, Any]:
    values = msgspec.structs.asdict(call) | {"execution_id": execution_id}
    return values | {"output": _or_nothing(call.output)}


def _or_nothing(value: StoredJson) -> StoredJson | None:
    return None if bytes(value) == b"null" else value


async def of_run(reader: Reader, execution_id: UUID) -> list[ToolCall]:
    """In the order in which the model asked for them."""
    return await reader.all(_OF_RUN, execution_id=execution_id)


async def get(reader: Reader, execution_id: UUID, call_id: str) -> ToolCall | None:
    return await reader.first(_GET, execution_id=execution_id, call_id=call_id)


async def count_open(connection: Connection, execution_id: UUID) -> int:
    """How many calls somebody must answer before the run can go on."""
    return await connection.first(_COUNT_OPEN, execution_id=execution_id) or 0


async def runs_with_expired(reader: Reader) -> list[UUID]:
    """Runs that wait for an answer whose time is over."""
    return await reader.all(_EXPIRED)


async def expire(connection: Connection, execution_id: UUID, at: datetime) -> list[ToolCall]:
    """Ends the calls of a run that nobody has answered in time."""
    return await connection.all(_EXPIRE, execution_id=execution_id, at=at)
