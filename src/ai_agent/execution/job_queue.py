"""The queue that tells a worker of an execution.

It carries ids only: the row is the truth, and losing the queue loses nothing.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Protocol
from uuid import UUID

from litestar_queues import QueueConfig, QueueService, Worker, WorkerConfig, task
from litestar_queues.task import Task

from ai_agent.domain.fields import new_id, now

Handler = Callable[[UUID], Awaitable[None]]


class JobQueue(Protocol):
    async def enqueue(self, execution_id: UUID) -> None: ...

    async def cancel(self, execution_id: UUID) -> None:
        """Interrupts the job wherever it is; nothing happens when it is nowhere."""

    async def status(self) -> dict[str, int]:
        """Jobs by state, for health and metrics."""

    async def work(self, handler: Handler) -> None:
        """Starts to run jobs in this process, and returns."""

    async def close(self) -> None:
        """Takes no new jobs and cancels those that run."""


class LitestarJobQueue:
    """litestar-queues in memory: one process, started in microseconds."""

    def __init__(self, *, concurrency: int):
        self._handler: Handler | None = None
        # The library's registry is global, and two applications may live in one process: a name for each.
        self._task: Task[[str], None] = task(f"ai_agent.execution.{new_id()}", queue="executions")(self._run)
        self._jobs: dict[UUID, UUID | None] = {}
        self._service = QueueService(
            QueueConfig(
                queue_backend="memory",
                worker=WorkerConfig(
                    placement="external",
                    batch_size=concurrency,
                    max_concurrency=concurrency,
                    poll_interval=0.05,
                    poll_backoff_max=1.0,
                    # Leases on our rows find lost workers; the library's own recovery would compete with them.
                    stale_after=None,
                    graceful_shutdown_timeout=0.1,
                    final_cancel_timeout=5,
                    hard_exit_timeout=None,
                ),
            )
        )
        self._worker: Worker | None = None
        self._working: asyncio.Task[None] | None = None

    async def _run(self, execution_id: str) -> None:
        assert self._handler is not None  # noqa: S101  # set by work() before the worker starts
        try:
            await self._handler(UUID(execution_id))
        finally:
            self._jobs.pop(UUID(execution_id), None)

    async def enqueue(self, execution_id: UUID) -> None:
        if execution_id in self._jobs:
            return
        self._jobs[execution_id] = None
        try:
            # The library remembers every job that it has done, for ever; the rows do that for us.
            await self._service.get_queue_backend().cleanup_terminal(now())
            job = await self._service.enqueue(self._task, execution_id=str(execution_id))
        except BaseException:
            self._jobs.pop(execution_id, None)
            raise
        if execution_id in self._jobs:  # Else it is done already.
            self._jobs[execution_id] = job.id

    async def cancel(self, execution_id: UUID) -> None:
        if (job := self._jobs.get(execution_id)) is not None:
            await self._service.cancel_task(job, include_running=True)
            self._jobs.pop(execution_id, None)

    async def status(self) -> dict[str, int]:
        return dataclasses.asdict(await self._service.get_statistics())

    async def work(self, handler: Handler) -> None:
        self._handler = handler
        await self._service.open()
        self._worker = Worker(self._service)
        self._working = asyncio.create_task(self._worker.start())
        await self._worker.wait_started()

    async def close(self) -> None:
        if self._worker is not None and self._working is not None:
            await self._worker.stop()
            await self._working
            await self._service.close()
