"""OpenTelemetry (extra `otel`): spans, sent where the well-known OTEL_* variables say.

Where no collector is named nothing of it is loaded, and what would be watched is as it is. Attributes have the names of
OpenTelemetry's semantic conventions, and hold no content, no values of statements, no queries of addresses: an error is
told by its type, for its words may quote a user. Requests that go out, statements and Redis have spans inside of others
only: alone they would be those of a process that looks again and again.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

from ai_agent.domain.errors import AIAgentError, ConfigurationError
from ai_agent.observability.logging import whose

COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FLUSH_SECONDS = 2.0

_NOTHING: AbstractContextManager[Any] = nullcontext()

_provider: Any = None
_tracer: Any = None


def start_tracing() -> None:
    """To be called before anything is put together. Raises ConfigurationError."""
    global _provider, _tracer  # a process has one
    named = [name for name in COLLECTORS if os.environ.get(name)]
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    if not named or off or _tracer is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        hint = f"Install it, or remove {named[0]}"
        raise ConfigurationError(f"{named[0]} is set, and the extra `otel` is not installed", hint) from error
    resource = Resource({"service.name": "ai-agent"}).merge(_told(Resource.create()))
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("ai_agent")


def _told(resource: Any) -> Any:
    """What the environment tells, without the name that the library makes up."""
    told = dict(resource.attributes)
    if str(told.get("service.name", "")).startswith("unknown_service"):
        del told["service.name"]
    return type(resource)(told)


async def flush() -> None:
    """Sends what is left, for at most two seconds: a collector that is away is no reason to stay."""
    if _provider is None:
        return
    # The library waits longer than it is told to, and a process waits for the threads of its pools.
    sending = threading.Thread(target=_provider.force_flush, daemon=True)
    sending.start()
    end = time.monotonic() + FLUSH_SECONDS
    while sending.is_alive() and time.monotonic() < end:  # noqa: ASYNC110  # once, at the end
        await asyncio.sleep(0.02)


def span(name: str, attributes: Mapping[str, Any], *, kind: str = "INTERNAL") -> AbstractContextManager[Any]:
    """Around a part of a request or run, which is None where nobody is told."""
    return _NOTHING if _tracer is None else _span(name, {**whose(), **attributes}, kind)


def client_span(name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Around what others do for us, as part of a span; called where tracing is on."""
    from opentelemetry.trace import get_current_span

    inside = get_current_span().get_span_context().is_valid
    return _span(name, attributes, "CLIENT") if inside else _NOTHING


@contextmanager
def _span(name: str, attributes: Mapping[str, Any], kind: str, context: Any = None) -> Iterator[Any]:
    from opentelemetry.trace import SpanKind

    known = {key: value for key, value in attributes.items() if value is not None}
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with _tracer.start_as_current_span(name, context, SpanKind[kind], known, **quiet) as current:
        try:
            yield current
        except BaseException as error:
            failed(current, error.code if isinstance(error, AIAgentError) else type(error).__name__)
            raise


def failed(current: Any, how: str) -> None:
    """Marks a span; `how` is an error's code or type."""
    if current is not None:
        from opentelemetry.trace import StatusCode

        current.set_status(StatusCode.ERROR)
        current.set_attribute("error.type", how)


def told(current: Any, attributes: Mapping[str, Any]) -> None:
    if current is not None:
        current.set_attributes(attributes)


def carried() -> dict[str, str]:
    """The span we are in, to be handed on to another process: `traceparent`, or nothing."""
    headers: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers


@contextmanager
def continued(headers: Mapping[str, str]) -> Iterator[None]:
    """The block belongs to the span that somebody has handed on, if there is one."""
    if _tracer is None or not headers:
        yield
        return
    from opentelemetry.context import attach, detach

    token = attach(_extracted(headers))
    try:
        yield
    finally:
        detach(token)


def _extracted(headers: Mapping[str, str]) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(headers)


def traced_app(app: Any) -> Any:
    """The ASGI application with a span for each request; as it is where nobody is told.

    A socket has none, which would be as long as the socket.
    """
    if _tracer is None:
        return app

    async def request(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name in _TRACE}
        asked = {"http.request.method": scope["method"], "url.scheme": scope["scheme"]}
        with _span(scope["method"], asked, "SERVER", _extracted(given)) as current:

            async def telling(message: Any) -> None:
                if message["type"] == "http.response.start":
                    _answered(current, scope, message["status"])
                await send(message)

            await app(scope, receive, telling)

    return request


_TRACE = {b"traceparent", b"tracestate"}


def _answered(current: Any, scope: Any, status: int) -> None:
    """The route is known by now; ids in names would make a name of each request."""
    current.set_attributes(whose() | {"http.response.status_code": status})
    if route := scope.get("path_template"):
        current.update_name(f"{scope['method']} {route}")
        current.set_attribute("http.route", route)
    if status >= 500:
        failed(current, str(status))


def trace_calls(room: Any, system: str, *methods: str) -> None:
    """Makes calls of a room that go to a system, such as `redis`, spans. Nothing happens where nobody is told."""
    if _tracer is not None:
        for name in methods:
            setattr(room, name, _traced_call(getattr(room, name), f"{system} {name}", system))


def _traced_call(call: Callable[..., Any], name: str, system: str) -> Callable[..., Any]:
    operation = name.rpartition(" ")[2]

    @wraps(call)
    async def traced(*arguments: Any, **named: Any) -> Any:
        with client_span(name, {"db.system.name": system, "db.operation.name": operation}):
            return await call(*arguments, **named)

    return traced


def is_on() -> bool:
    return _tracer is not None
