"""OpenTelemetry (extra `otel`): a span for each request, sent where the well-known OTEL_* variables say."""

import os
from typing import Any

from ai_agent.domain.errors import ConfigurationError

COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def traced(app: Any) -> Any:
    """The ASGI application with its spans; as it is where no collector is named. Raises ConfigurationError."""
    named = [name for name in COLLECTORS if os.environ.get(name)]
    if not named:
        return app
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        hint = f"Install it, or remove {named[0]}"
        raise ConfigurationError(f"{named[0]} is set, and the extra `otel` is not installed", hint) from error
    name = os.environ.get("OTEL_SERVICE_NAME", "ai-agent")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    exclude: Any = ["receive", "send"]
    return OpenTelemetryMiddleware(_named_by_route(app), tracer_provider=provider, exclude_spans=exclude)


def _named_by_route(app: Any) -> Any:
    """The route is known when the response begins; ids in names would make a name of each request."""
    from opentelemetry.trace import get_current_span

    async def named(scope: Any, receive: Any, send: Any) -> None:
        span = get_current_span()

        async def naming(message: Any) -> None:
            if message["type"] == "http.response.start" and (route := scope.get("path_template")):
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
            await send(message)

        await app(scope, receive, naming)

    return named
