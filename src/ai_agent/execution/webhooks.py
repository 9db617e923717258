"""Webhooks: a delivery is announced in the transaction that ends its run, then tried until it is taken or given up.

At least once: a process that dies leaves its attempt to the others, when its time is over. Every process with a worker
delivers. Source: Standard Webhooks 1.0 (standardwebhooks.com).
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

import msgspec
import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.deliveries import DeliveryStatus
from ai_agent.domain.fields import new_id, now
from ai_agent.execution.webhook_post import ATTEMPT_SECONDS, Result
from ai_agent.security.webhook_signatures import WebhookSigner
from ai_agent.storage import deliveries, executions
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.deliveries import Attempt, Due

ATTEMPTS = 6
GROWTH = 4
MAX_WAIT_SECONDS = 3600.0
HELD_SECONDS = ATTEMPT_SECONDS + 5
"""For so long a process that has begun an attempt keeps others from it."""
LOOK_SECONDS = 1.0
CLOSE_SECONDS = 2.0

AT_ONCE = 64
OWNER_AT_ONCE = 16
URL_AT_ONCE = 4
"""So that a receiver that hangs keeps only deliveries to itself waiting, and an owner of many such only his own."""

GONE = 410

Post = Callable[[str, Mapping[str, str], str], Awaitable[Result]]

log = structlog.get_logger()


class Webhooks:
    def __init__(self, database: Database, signer: WebhookSigner, post: Post, *, retry_seconds: float):
        self._database = database
        self._signer = signer
        self._post = post
        self._retry_seconds = retry_seconds
        self._wanted = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._attempts: set[asyncio.Task[None]] = set()
        self._of_owner: Counter[str] = Counter()
        self._of_url: Counter[str] = Counter()

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look_for_ever())

    async def close(self) -> None:
        """Gives attempts that are under way a moment; what is cut off is tried again, here or elsewhere."""
        await cancel_and_wait(self._looking)
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=CLOSE_SECONDS)
            await cancel_and_wait(*self._attempts)

    async def announce(self, rows: Connection, owner: str, execution_id: UUID, url: str | None) -> None:
        """In the transaction that has ended a run: what its `callback_url` is told; nothing where there is none."""
        execution = await executions.get(rows, owner, execution_id) if url is not None else None
        if execution is None or url is None:
            return
        at = now()
        event = f"execution.{execution.status}"
        payload = msgspec.json.encode({"type": event, "timestamp": at, "data": execution}).decode()
        told = {"url": url, "event": event, "payload": payload}
        await deliveries.add(rows, delivery_id=new_id(), owner=owner, execution_id=execution_id, at=at, **told)
        rows.after_commit(self.wake)

    async def wake(self) -> None:
        """Looks at once; what is new would be found within a second."""
        self._wanted.set()

    async def _look_for_ever(self) -> None:
        while True:
            self._wanted.clear()
            try:
                while await self._look():
                    pass
            except Exception:
                log.exception("webhooks_failed")
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _look(self) -> bool:
        """Begins what is due, as far as there is room; tells whether there may be more that could begin."""
        room = AT_ONCE - len(self._attempts)
        if room <= 0:
            return False
        owners, urls = _full(self._of_owner, OWNER_AT_ONCE), _full(self._of_url, URL_AT_ONCE)
        found = await deliveries.due(self._database.reader, room, owners=owners, urls=urls)
        begun = [await self._begin(due) for due in found if self._has_room(due)]
        return any(begun)

    def _has_room(self, due: Due) -> bool:
        return self._of_owner[due.owner_id] < OWNER_AT_ONCE and self._of_url[due.url] < URL_AT_ONCE

    async def _begin(self, due: Due) -> bool:
        async with self._database.unit_of_work() as rows:
            held = await deliveries.take(rows, due.id, HELD_SECONDS)
        if held is None:
            return False
        self._of_owner[held.owner_id] += 1
        self._of_url[held.url] += 1
        attempt = asyncio.create_task(self._attempt(held))
        self._attempts.add(attempt)
        attempt.add_done_callback(lambda done: self._done(done, held))
        return True

    def _done(self, attempt: "asyncio.Task[None]", held: Attempt) -> None:
        full = len(self._attempts) >= AT_ONCE or bool(
            _full(self._of_owner, OWNER_AT_ONCE) or _full(self._of_url, URL_AT_ONCE)
        )
        self._attempts.discard(attempt)
        self._of_owner -= Counter((held.owner_id,))
        self._of_url -= Counter((held.url,))
        if full:
            self._wanted.set()

    async def _attempt(self, held: Attempt) -> None:
        with structlog.contextvars.bound_contextvars(delivery_id=str(held.id)):
            try:
                result = await self._post(held.url, self._headers(held), held.payload)
                await self._write_down(held, result)
            except Exception:
                log.exception("webhook_outcome_lost")  # It is tried again when the attempt's time is over.

    def _headers(self, held: Attempt) -> dict[str, str]:
        timestamp = int(time.time())
        return {
            "webhook-id": str(held.id),
            "webhook-timestamp": str(timestamp),
            "webhook-signature": self._signer.sign(held.owner_id, held.id, timestamp, held.payload),
            "content-type": "application/json",
            "user-agent": "ai-agent",
        }

    async def _write_down(self, held: Attempt, result: Result) -> None:
        status = outcome(result, held.attempts)
        log.info("webhook_attempted", outcome=status, attempt=held.attempts, status=result.status, error=result.error)
        async with self._database.unit_of_work() as rows:
            if status is DeliveryStatus.PENDING:
                wait = wait_seconds(held.attempts, self._retry_seconds, result.retry_after)
                await deliveries.retry(rows, held, wait, result.status, result.error)
            else:
                await deliveries.end(rows, held, status, result.status, result.error, now())


def outcome(result: Result, attempts: int) -> DeliveryStatus:
    """What an attempt makes of its delivery: `pending` when another one follows."""
    if result.error is None:
        return DeliveryStatus.DELIVERED
    return DeliveryStatus.FAILED if attempts >= ATTEMPTS or result.status == GONE else DeliveryStatus.PENDING


def wait_seconds(attempts: int, base: float, retry_after: float) -> float:
    """From one attempt to the next: four times as long each time, up to a quarter more by chance, at most an hour."""
    grown: float = base * GROWTH ** (attempts - 1) * random.uniform(1, 1.25)  # noqa: S311  # No secret, only spread.
    return min(MAX_WAIT_SECONDS, max(grown, retry_after))


def _full(counts: Counter[str], most: int) -> list[str]:
    return [name for name, count in counts.items() if count >= most]
