"""`/metrics`, for Prometheus."""

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST

from ai_agent.api.guards import PUBLIC
from ai_agent.api.rate_limits import EXEMPT
from ai_agent.services.metrics import MetricsService


@get("/metrics", opt=PUBLIC | EXEMPT)
async def get_metrics(metrics: NamedDependency[MetricsService]) -> Response[bytes]:
    return Response(await metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
