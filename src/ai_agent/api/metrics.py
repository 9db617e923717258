"""`/metrics`, for Prometheus."""

import asyncio

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

from ai_agent.api.guards import PUBLIC
from ai_agent.api.rate_limits import EXEMPT
from ai_agent.services.execution_queue import ExecutionQueue
from ai_agent.services.outbox_lag import OutboxLag
from ai_agent.services.queues import QueueService

TASKS = Gauge("ai_agent_tasks", "Tasks of the event loop")


@get("/metrics", opt=PUBLIC | EXEMPT)
async def get_metrics(
    execution_queue: NamedDependency[ExecutionQueue],
    outbox_lag: NamedDependency[OutboxLag],
    queues: NamedDependency[QueueService],
) -> Response[bytes]:
    TASKS.set(len(asyncio.all_tasks()))
    await execution_queue.look()
    await outbox_lag.look()
    await queues.look()
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
