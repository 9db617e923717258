"""A request with an Idempotency-Key happens once: the key, the effect and the answer are one transaction.

A crash leaves all of them or none, so a repeat replays or starts afresh, and nobody has to take anything over.
What takes longer than a transaction may has its key committed first, under a lease: behind its end a repeat takes over.
An answer that is an error undoes the key with everything else: nothing happened, and the same key may try again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import msgspec

from ai_agent.domain.errors import Conflict, IdempotencyInProgress, IdempotencyKeyReused
from ai_agent.domain.fields import now, to_json
from ai_agent.domain.idempotency import KEPT_HOURS, IdempotencyKey
from ai_agent.services.housekeeping import removed_in_steps
from ai_agent.storage import idempotency
from ai_agent.storage.database import Connection, Database, LockTimeout, shared
from ai_agent.storage.idempotency import StoredAnswer

WAIT_SECONDS = 1.0
"""How long a repeat waits for the end of the first request."""
POLL_SECONDS = 0.1
LEASE_SECONDS = 180.0
"""Longer than anything takes that is done under a lease."""


class KeptAnswer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes


class _Undone(Exception):
    """Ends a transaction whose answer is an error."""


class IdempotencyService:
    def __init__(self, database: Database):
        self._database = database
        self._in_progress: Counter[tuple[str, str, str]] = Counter()

    async def once(self, owner: str, key: IdempotencyKey, answer: Callable[[], Awaitable[KeptAnswer]]) -> KeptAnswer:
        """The answer to the first request of this key; `answer` is asked for it when this is the first.

        Raises IdempotencyInProgress, IdempotencyKeyReused.
        """
        mine = (owner, key.path, key.text)
        self._in_progress[mine] += 1
        try:
            return await self._once(owner, key, answer)
        except LockTimeout as error:
            # Where the database has one writer, a repeat waits for that, and not for the key's row.
            if self._in_progress[mine] > 1:
                raise IdempotencyInProgress from error
            raise
        finally:
            self._in_progress[mine] -= 1
            if not self._in_progress[mine]:
                del self._in_progress[mine]

    async def _once(self, owner: str, key: IdempotencyKey, answer: Callable[[], Awaitable[KeptAnswer]]) -> KeptAnswer:
        kept: KeptAnswer | None = None
        try:
            async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS) as rows:
                first = await claim(rows, owner, key)
                if first is not None:
                    return _replay(first)
                with shared(rows):
                    kept = await answer()
                if kept.status >= 400:
                    raise _Undone
                headers = to_json(kept.headers)
                await idempotency.store(rows, owner, key, status=kept.status, headers=headers, body=kept.body)
        except _Undone:
            assert kept is not None  # noqa: S101  # set before it is raised
        return kept

    async def once_leased(
        self, owner: str, key: IdempotencyKey, answer: Callable[[], Awaitable[KeptAnswer]]
    ) -> KeptAnswer:
        """As `once`, without a transaction around `answer`. `key.interrupted` says that an earlier request was lost.

        What is cancelled leaves its key to the end of the lease: nobody knows what it has done.
        """
        if (first := await self._claim_leased(owner, key)) is not None:
            return first
        kept = await answer()
        async with self._database.unit_of_work() as rows:
            if kept.status >= 400:
                await idempotency.release(rows, owner, key)
            else:
                headers = to_json(kept.headers)
                await idempotency.store(rows, owner, key, status=kept.status, headers=headers, body=kept.body)
        return kept

    async def _claim_leased(self, owner: str, key: IdempotencyKey) -> KeptAnswer | None:
        """None when the key is taken now. Raises as `once` does, after a second in which the first has not answered."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS) as rows:
                first = await claim(rows, owner, key)
                if first is None:
                    await idempotency.lease(rows, owner, key, LEASE_SECONDS)
                    return None
                if first.status is not None:
                    return _replay(first)
                if await idempotency.take_over(rows, owner, key, LEASE_SECONDS):
                    key.interrupted, key.replayed = True, False
                    return None
            if time.monotonic() > until:
                raise IdempotencyInProgress
            await asyncio.sleep(POLL_SECONDS)

    async def forget_expired(self) -> int:
        """Removes keys that are kept no longer, and tells how many."""
        expired = now() - timedelta(hours=KEPT_HOURS)
        return await removed_in_steps(self._database, lambda rows: idempotency.forget(rows, expired))


async def claim(
    rows: Connection, owner: str, key: IdempotencyKey, execution_id: UUID | None = None
) -> StoredAnswer | None:
    """None when the key is now taken by this transaction, else what the first request left.

    Raises IdempotencyInProgress when that one takes too long, IdempotencyKeyReused when it was another request.
    """
    at = now()
    expired = at - timedelta(hours=KEPT_HOURS)
    try:
        if await idempotency.claim(rows, owner, key, execution_id=execution_id, at=at, expired=expired):
            return None
    except LockTimeout as error:
        raise IdempotencyInProgress from error
    first = await idempotency.get(rows, owner, key)
    if first is None:
        raise IdempotencyInProgress
    if first.body_digest != key.body_digest:
        raise IdempotencyKeyReused("This Idempotency-Key was used with another request")
    key.replayed = True
    return first


NOT_STORED = "the answer held a secret, and is not stored"


async def only_once(rows: Connection, owner: str, key: IdempotencyKey | None, why: str = NOT_STORED) -> None:
    """Takes the key of a request whose answer is never stored. Raises Conflict for a repeat, which says why."""
    if key is None or await claim(rows, owner, key) is None:
        return
    key.replayed = False
    raise Conflict(f"This Idempotency-Key was used: {why}")


def _replay(first: StoredAnswer) -> KeptAnswer:
    if first.status is None or first.body is None:
        raise IdempotencyInProgress
    return KeptAnswer(first.status, msgspec.json.decode(first.headers, type=dict[str, str]), first.body)
