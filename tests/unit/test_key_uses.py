"""When a key was last used: coarse, and nobody's request waits for it."""

import asyncio
import gc
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ai_agent.domain.api_keys import ApiKey
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.security.api_keys import KeyHasher
from ai_agent.services.api_keys import ApiKeyService
from ai_agent.services.paging import Pager
from ai_agent.storage.keyset import CursorCodec

SECRET = "s" * 32


class Slow:
    """A database whose writes take long, or fail."""

    def __init__(self, error: Exception | None = None):
        self.writes = 0
        self._error = error

    async def write(self, *_: Any, **__: Any) -> None:
        await asyncio.sleep(0.05)
        self.writes += 1
        if self._error is not None:
            raise self._error


def service(database: Any) -> ApiKeyService:
    return ApiKeyService(database, KeyHasher(SECRET), "test", Pager(database, CursorCodec(SECRET)))


def key_used(at: datetime | None) -> ApiKey:
    key: dict[str, Any] = {"id": uuid.uuid4(), "name": "x", "owner_id": "x", "scopes": b"[]", "tier": "premium"}
    ends: dict[str, Any] = {"expires_at": None, "revoked_at": None, "rotated_to": None}
    return ApiKey(**key, **ends, last_used_at=at, created_at=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("error", [None, ServiceUnavailable("away"), ValueError("a bug")])
def test_nobody_waits_for_the_note_of_a_use_nor_sees_it_fail(error: Exception | None) -> None:
    seen: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        database = Slow(error)
        keys, key = service(database), key_used(None)
        for _ in range(100):
            keys.note_use(key)
        assert database.writes == 0
        await keys.close()
        assert database.writes == 1
        gc.collect()  # Only then asyncio tells of an error that nobody has looked at.

    asyncio.run(scenario())
    assert seen == []


@pytest.mark.parametrize(("seconds", "writes"), [(1, 0), (59, 0), (61, 1)])
def test_a_use_that_was_noted_within_a_minute_is_not_written(seconds: float, writes: int) -> None:
    async def scenario() -> None:
        database = Slow()
        keys = service(database)
        keys.note_use(key_used(datetime.now(UTC) - timedelta(seconds=seconds)))
        await keys.close()
        assert database.writes == writes

    asyncio.run(scenario())
