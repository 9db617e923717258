"""The queue that tells a worker of an execution.

It carries ids only: the row is the truth, and losing the queue loses nothing. Beside the id there is the span in which
it was queued, where spans are told: a run that the sweeper queues begins a trace of its own.
"""

import asyncio
import dataclasses
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import structlog
from litestar_queues import QueueConfig, QueueService, Worker, WorkerConfig
from litestar_queues.exceptions import QueueConfigurationError
from litestar_queues.task import Task

from ai_agent.background import cancel_and_wait
from ai_agent.domain.fields import now
from ai_agent.observability.tracing import carried, continued
from ai_agent.storage.redis import ANSWER_SECONDS

if TYPE_CHECKING:
    from redis.asyncio import Redis

NAMESPACE = "ai_agent_queue"
"""What the library's keys, channels and loggers begin with."""
POLL_SECONDS = 0.5
"""How long a wakeup that was lost delays a job, and a Redis that is back its workers."""
AWAY_SECONDS = 0.5
"""So long a Redis that did not answer is not asked again by requests."""
CLEAN_SECONDS = 1.0
KEPT_SECONDS = 5.0
"""A job that has ended is kept so long, so that its worker learns of a cancel."""
REQUEUES = 1_000_000
"""Only a worker that is lost makes a job come back; how often a run does is decided by its row."""

Handler = Callable[[UUID], Awaitable[None]]

log = structlog.get_logger()


class JobQueue(Protocol):
    async def enqueue(self, execution_id: UUID) -> None:
        """Tells the workers of a run, once until its job has ended. When nobody can be told, the sweeper repeats it."""

    async def cancel(self, execution_id: UUID) -> None:
        """Interrupts the job wherever it is; nothing happens when it is nowhere."""

    async def status(self) -> dict[str, int]:
        """Jobs by state, for health and metrics."""

    async def work(self, handler: Handler) -> None:
        """Starts to run jobs in this process, and returns."""

    async def close(self) -> None:
        """Takes no new jobs, and cancels those that run: they go to another worker."""


class LitestarJobQueue:
    """litestar-queues: in memory for one process, on Redis for many.

    What Redis cannot be asked is left to the sweeper and to the leases of rows, and logged once.
    """

    def __init__(self, redis: "Redis | None" = None, *, concurrency: int, lease_seconds: float = 6.0, name: str = ""):
        self._redis = redis
        self._handler: Handler | None = None
        self._service = _Service(_config(redis, concurrency, lease_seconds, name), self._run)
        self._worker: Worker | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._outage = _Outage(_errors_of_redis() if redis else ())

    async def enqueue(self, execution_id: UUID) -> None:
        if self._outage.lasts:
            return
        with self._outage:
            async with asyncio.timeout(ANSWER_SECONDS):
                trace: Any = carried()
                for key in _keys(execution_id):
                    job = await self._service.enqueue(self._service.task, str(execution_id), key=key, **trace)
                    if job.record is None or job.record.status != "running":
                        return

    async def cancel(self, execution_id: UUID) -> None:
        with self._outage:
            async with asyncio.timeout(ANSWER_SECONDS):
                for key in _keys(execution_id):
                    await self._cancel(key)

    async def status(self) -> dict[str, int]:
        return dataclasses.asdict(await self._service.get_statistics())

    async def work(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._clean())]
        for task in self._tasks:
            task.add_done_callback(_log_failure)

    async def close(self) -> None:
        self._closing = True
        if self._worker is not None:
            await self._worker.stop()
            await asyncio.wait(self._tasks[:1])
        await cancel_and_wait(*self._tasks)
        with self._outage:
            await self._service.close()
        if self._redis is not None:
            await self._redis.aclose()

    async def _cancel(self, key: str) -> None:
        for _ in range(3):  # A job that begins meanwhile is not cancelled at the first time.
            job = await self._service.get_queue_backend().get_task_by_key(key)
            if job is None or job.is_terminal or await self._service.cancel_task(job.id, include_running=True):
                return

    async def _run(self, execution_id: str, **trace: str) -> None:
        assert self._handler is not None  # noqa: S101  # set by work() before the worker starts
        try:
            with continued(trace):
                await self._handler(UUID(execution_id))
        except Exception:
            log.exception("job_failed", execution_id=execution_id)

    async def _work(self) -> None:
        while not self._closing:
            try:
                with self._outage:
                    await self._run_jobs()
            except Exception:
                log.exception("queue_failed")
            if not self._closing:
                await asyncio.sleep(AWAY_SECONDS)

    async def _run_jobs(self) -> None:
        await self._open()
        if not self._closing:
            self._worker = _Worker(self._service)
            await self._worker.start()

    async def _open(self) -> None:
        try:
            await self._service.open()
        except QueueConfigurationError:
            # The library's own marker went when Redis was emptied, and jobs have come since.
            await self._service.get_queue_backend().rebuild_maintenance_indexes()  # type: ignore[attr-defined]  # Redis's has it
            await self._service.open()

    async def _clean(self) -> None:
        """The library remembers every job that it has done, for ever; the rows do that for us."""
        backend = self._service.get_queue_backend()
        while True:
            await asyncio.sleep(CLEAN_SECONDS)
            with self._outage:
                if await backend.acquire_worker_lock("cleanup", ttl=timedelta(seconds=CLEAN_SECONDS)):
                    await backend.cleanup_terminal(now() - timedelta(seconds=KEPT_SECONDS))


class _Worker(Worker):
    async def _wait_for_work(self) -> bool | None:
        try:
            return await super()._wait_for_work()
        except Exception as error:
            # A listener that lost its Redis would end the library's loop, and interrupt all that runs.
            log.warning("queue_listener_failed", error=str(error) or type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)
            return None


class _Outage:
    """Swallows that Redis is away, and logs when that begins and when it ends."""

    def __init__(self, errors: tuple[type[Exception], ...]):
        self._errors = errors
        self._until = 0.0

    @property
    def lasts(self) -> bool:
        """Whether Redis was away a moment ago, so that nobody waits for it again."""
        return time.monotonic() < self._until

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, self._errors):
            if not self._until:
                log.warning("queue_away", error=str(error) or type(error).__name__)
            self._until = time.monotonic() + AWAY_SECONDS
            return True
        if error is None and self._until:
            log.info("queue_back")
            self._until = 0.0
        return False


class _Service(QueueService):
    """Knows one task: the library's registry is global, and several queues may live in one process."""

    def __init__(self, config: QueueConfig, run: Callable[..., Awaitable[None]]):
        super().__init__(config)
        self.task: Task[Any, Any] = Task(run, name="ai_agent.execution", queue="executions", retries=REQUEUES)

    def resolve_task(self, task: "str | Task[Any, Any]") -> "Task[Any, Any]":  # noqa: ARG002  # the library's signature
        return self.task


def _keys(execution_id: UUID) -> tuple[str, str]:
    """A run that is queued again while its job has not quite ended, as one that waited, gets a second job behind it."""
    return str(execution_id), f"{execution_id}:next"


def _config(redis: "Redis | None", concurrency: int, lease_seconds: float, name: str) -> QueueConfig:
    worker = WorkerConfig(
        placement="external",
        id=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",  # A pid alone is 1 in every container.
        batch_size=concurrency,
        max_concurrency=concurrency,
        poll_interval=POLL_SECONDS,
        poll_backoff_max=None,
        cancellation_poll_interval=POLL_SECONDS,
        # A lost worker's job is free before its row is, so that the sweeper can queue the row at once.
        heartbeat_interval=lease_seconds / 6,
        stale_after=lease_seconds / 2 if redis else None,
        stale_check_interval=lease_seconds / 6,
        # A Redis that was emptied knows no job, and the runs go on all the same: the rows have the leases.
        cancel_on_claim_loss=False,
        expiry_check_interval=None,
        requeue_on_shutdown=True,
        graceful_shutdown_timeout=0.1,
        final_cancel_timeout=5,
        hard_exit_timeout=None,
    )
    if redis is None:
        return QueueConfig(namespace=NAMESPACE, queue_backend="memory", worker=worker)
    from litestar_queues.backends.redis import RedisBackendConfig

    for part in ("worker", "worker.heartbeat", "backends.RedisQueueBackend"):
        logging.getLogger(f"{NAMESPACE}.{part}").addFilter(_not_of_redis)
    backend = RedisBackendConfig(client=redis, key_prefix=f"{NAMESPACE}:{name}")
    return QueueConfig(namespace=NAMESPACE, queue_backend=backend, worker=worker)


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("queue_failed", exc_info=error)


def _errors_of_redis() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return (RedisError, OSError)


def _not_of_redis(record: logging.LogRecord) -> bool:
    """While Redis is away the library would log a traceback every half second; `_Outage` says it once."""
    return record.exc_info is None or not isinstance(record.exc_info[1], _errors_of_redis())
