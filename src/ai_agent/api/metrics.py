"""`/metrics`, for Prometheus."""

from litestar import Response, get
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ai_agent.api.guards import PUBLIC
from ai_agent.api.rate_limits import EXEMPT


@get("/metrics", opt=PUBLIC | EXEMPT)
async def get_metrics() -> Response[bytes]:
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
