"""Every node hears within a second of credentials that were revoked or changed.

A node that does not hear is not trusted: what it remembers counts for a second after its last look began. So a revoked
credential is refused within a second whatever is down, without anything but the database.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Set
from datetime import timedelta

import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.fields import now
from ai_agent.storage import credential_changes
from ai_agent.storage.database import Database

LOOK_SECONDS = 0.5
TRUST_SECONDS = 1.0
KEPT = timedelta(hours=1)
"""Changes are kept longer than anybody could need them, for clocks that differ."""

log = structlog.get_logger()


class CredentialChanges:
    """`changed` is told the credentials of each change, None when it may be any; when it raises, nothing is trusted."""

    def __init__(self, database: Database, changed: Callable[[Set[str] | None], None]):
        self._database = database
        self._changed = changed
        self._seen = 0
        self._looked = 0.0
        self._following: asyncio.Task[None] | None = None
        self._failing = False
        self.trusted_until = 0.0
        """Up to this moment of `time.monotonic()`, what is remembered is as good as the database."""

    async def start(self) -> None:
        with contextlib.suppress(Exception):  # Then the first requests ask the database, and the next look tells.
            await self.look()
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        await cancel_and_wait(self._following)

    async def look(self) -> None:
        """Reads all that is new."""
        began = self._looked = time.monotonic()
        full = True
        while full:
            newest, news = await credential_changes.since(self._database.reader, self._seen)
            full = len(news) == credential_changes.AT_ONCE
            if newest < self._seen:  # Another database, such as a backup of before: its numbers begin anew.
                self._changed(None)
                self._seen = newest
            elif news:
                self._changed(set(news.values()))
                self._seen = max(news)
        self.trusted_until = began + TRUST_SECONDS

    async def _follow(self) -> None:
        while True:
            # Counted from the beginning of a look: a busy database that answers late is asked again at once.
            await asyncio.sleep(max(0.0, self._looked + LOOK_SECONDS - time.monotonic()))
            try:
                await self.look()
            except Exception as error:
                if not self._failing:
                    log.warning("credential_changes_unread", reason=str(error) or type(error).__name__)
                self._failing = True
            else:
                self._failing = False

    async def forget_expired(self) -> int:
        """Removes what concerns nobody any more, and tells how many changes that were."""
        async with self._database.unit_of_work() as rows:
            return await credential_changes.forget(rows, now() - KEPT)
