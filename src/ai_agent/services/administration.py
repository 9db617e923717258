"""What the operator asks of the whole server."""

import re
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import version

import msgspec

from ai_agent.domain.administration import (
    Configuration,
    EndedExecutions,
    LiveExecutions,
    RowCounts,
    Setting,
    Stats,
)
from ai_agent.domain.execution_history import TokenCounts
from ai_agent.domain.executions import ExecutionStatus
from ai_agent.domain.fields import KEPT_SECRET, now
from ai_agent.realtime.connection_registry import ConnectionRegistry
from ai_agent.settings import Settings, variable
from ai_agent.storage import execution_history, inbox, outbox, stats
from ai_agent.storage.database import Database

_SECRET = re.compile(r"secret|_key")
_PASSWORD = re.compile(r"(://[^:/@,]*:)[^,]+(?=@)")
"""Up to the last `@`: a password may hold any character."""
_PARAMETER = re.compile(r"(?<==)[^&=]+(?=&|$)")


class AdministrationService:
    def __init__(self, settings: Settings, database: Database, connections: ConnectionRegistry):
        self._settings = settings
        self._database = database
        self._connections = connections

    async def stats(self) -> Stats:
        patient, reader = self._database.patient, self._database.reader
        # One after the other: who asks for this has time, and requests need the connections.
        counted, live = await stats.counts(patient), await stats.live(patient)
        ended = await stats.ended(patient, now() - timedelta(days=1))
        ready, waiting = await execution_history.ready(reader), await inbox.counts(patient)
        of = {each.status: each.count for each in live}
        ends = {each.status: each.count for each in ended}
        tokens = TokenCounts(sum(each.input_tokens for each in ended), sum(each.output_tokens for each in ended))
        return Stats(
            version=version("ai-agent"),
            counts=RowCounts(**{each.table: _rows(each) for each in counted}),
            approximate=[each.table for each in counted if _is_estimated(each)],
            live=LiveExecutions(
                queued=of.get(ExecutionStatus.QUEUED, 0),
                running=of.get(ExecutionStatus.RUNNING, 0),
                waiting=of.get(ExecutionStatus.WAITING, 0),
                oldest_ready_at=ready.oldest,
            ),
            last_24h=EndedExecutions(
                completed=ends.get(ExecutionStatus.COMPLETED, 0),
                failed=ends.get(ExecutionStatus.FAILED, 0),
                cancelled=ends.get(ExecutionStatus.CANCELLED, 0),
                tokens=tokens,
                cost=sum(each.cost for each in ended),
            ),
            connections=len(await self._connections.all()),
            unacknowledged=waiting.waiting,
            dead_letters=waiting.dead,
            outbox_oldest_at=await outbox.oldest(reader),
        )

    def configuration(self) -> Configuration:
        return Configuration(list(shown(self._settings)))


def _is_estimated(count: stats.RowCount) -> bool:
    return count.counted > stats.COUNTED


def _rows(count: stats.RowCount) -> int:
    return max(count.counted, count.estimated) if _is_estimated(count) else count.counted


def shown(settings: Settings) -> Iterator[Setting]:
    for field in msgspec.structs.fields(Settings):
        value = getattr(settings, field.name)
        yield Setting(variable(field.name), _text(field.name, value), value == field.default)


def _text(name: str, value: object) -> str | None:
    if value is None or value == ():
        return None
    if _SECRET.search(name):
        return KEPT_SECRET
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if isinstance(value, bool):
        return text.lower()
    return _PARAMETER.sub(KEPT_SECRET, _PASSWORD.sub(rf"\1{KEPT_SECRET}", text)) if "://" in text else text
