"""Spans arrive at a collector, named by route and inside the caller's trace."""

import importlib.util
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.exporter") is None, reason="the extra `otel` is not installed"
)


class Collector:
    """A receiver of OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.close()


def test_a_request_is_a_span_of_its_callers_trace(collector: Collector, tmp_path: Path) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    server = Server(f"sqlite:///{tmp_path}/x.db", tmp_path, **settings)
    trace = "0af7651916cd43dd8448eb211c80319c"
    with server.client() as api:
        session = api.post("/sessions", json={}).json()["id"]
        api.get(f"/sessions/{session}", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    deadline = time.monotonic() + 10
    mine: list[Any] = []
    while not mine and time.monotonic() < deadline:
        time.sleep(0.05)
        requests = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies]
        scopes = [scope for request in requests for sent in request.resource_spans for scope in sent.scope_spans]
        mine = [span for scope in scopes for span in scope.spans if span.trace_id.hex() == trace]
    assert [span.name for span in mine] == ["GET /api/v1/sessions/{session_id}"]
    assert server.stop() == 0
