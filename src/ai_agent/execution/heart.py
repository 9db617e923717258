"""The heart of a worker process: one statement keeps the leases of all its runs, another looks for those to stop."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from uuid import UUID

import structlog

from ai_agent.background import cancel_and_wait
from ai_agent.domain.errors import AIAgentError
from ai_agent.execution.runs import Runs
from ai_agent.storage.leases import Claim, Held

LOOK_SECONDS = 0.25
"""How often runs that somebody wants to stop are looked for; nobody has to tell this process."""
RETRY_SECONDS = 0.5

log = structlog.get_logger()


class Heart:
    def __init__(self, runs: Runs, worker: str, seconds: float):
        self._runs = runs
        self._worker = worker
        self._seconds = seconds
        self._held: dict[UUID, tuple[Claim, Callable[[str], None]]] = {}
        self._nudged = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._beating = asyncio.create_task(self._beat())

    async def close(self) -> None:
        await cancel_and_wait(self._beating)

    def hold(self, claim: Claim, stop: Callable[[str], None]) -> None:
        """Keeps the lease; `stop(why)` is called when it is `lost`, or when somebody has `cancelled` the run."""
        self._held[claim.id] = (claim, stop)

    def let_go(self, claim: Claim) -> None:
        self._held.pop(claim.id, None)

    def nudge(self) -> None:
        """Somebody may want to stop a run: looks at once."""
        self._nudged.set()

    async def _beat(self) -> None:
        due = time.monotonic() + self._seconds
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._nudged.wait()
            self._nudged.clear()
            if not self._held:
                continue
            try:
                if time.monotonic() >= due:
                    await self._renew()
                    due = time.monotonic() + self._seconds
                else:
                    self._cancel(await self._runs.to_cancel(self._worker))
            except AIAgentError as error:
                due = time.monotonic() + RETRY_SECONDS
                log.warning("heartbeat_failed", error=error.message)
            except Exception:  # Whatever it is: without a heart all runs of the process are lost.
                due = time.monotonic() + RETRY_SECONDS
                log.exception("heartbeat_crashed")

    async def _renew(self) -> None:
        asked = dict(self._held)
        held = {run.id: run for run in await self._runs.renew_all(self._worker, list(asked))}
        for claim, stop in asked.values():
            mine = held.get(claim.id)
            if (mine is None or mine.fence != claim.fence) and self._held.get(claim.id) == asked[claim.id]:
                stop("lost")
        self._cancel([run for run in held.values() if run.cancel_requested])

    def _cancel(self, wanted: list[Held]) -> None:
        for run in wanted:
            claim, stop = self._held.get(run.id, (None, None))
            if claim is not None and stop is not None and claim.fence == run.fence:
                stop("cancelled")
