"""A receiver of OTLP over HTTP, and the spans that it got."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Span:
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    service: str
    failed: bool


class Collector:
    """`hangs`: it takes what is sent, and answers only at its end."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._end = threading.Event()
        collector, bodies = self, self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                if hangs:
                    collector._end.wait(30)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._end.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def spans(self) -> list[Span]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        sent = [each for body in self.bodies for each in ExportTraceServiceRequest.FromString(body).resource_spans]
        return [
            _span(span, {each.key: each.value.string_value for each in of.resource.attributes})
            for of in sent
            for scope in of.scope_spans
            for span in scope.spans
        ]

    def until(self, there: Callable[[list[Span]], bool]) -> list[Span]:
        deadline = time.monotonic() + 30
        while not there(spans := self.spans):
            assert time.monotonic() < deadline, [span.name for span in spans]
            time.sleep(0.05)
        return spans


def _span(span: Any, resource: dict[str, str]) -> Span:
    values = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    kind = type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    return Span(span.name, kind, *ids, values, resource["service.name"], span.status.code == 2)
