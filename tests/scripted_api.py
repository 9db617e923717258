"""An API whose streams are scripted: what a real server sends rarely, or only around a restart."""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

EXECUTION, SESSION, MESSAGE = (str(uuid.uuid4()) for _ in range(3))
RUN = {"execution_id": EXECUTION, "session_id": SESSION, "agent_id": str(uuid.uuid4())}
QUEUED = ("execution.queued", {**RUN, "input_message_id": MESSAGE})
COMPLETED = ("execution.completed", {**RUN, "message_id": MESSAGE, "usage": {}, "execution_time_ms": 1})

Event = tuple[str, dict[str, Any]]


class Reply(NamedTuple):
    """In a stream's place, or to another POST: an answer of this status."""

    status: int
    message: str = "No"


BREAKS = "breaks"
"""The connection is cut."""
POSTED = "posted"
"""Waits for one more POST."""

Step = Event | str


class Call(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class ScriptedApi:
    """Each stream that is asked for is the next of `streams`; other POSTs are answered by `replies`, then with 200."""

    def __init__(self) -> None:
        self.streams: list[list[Step] | Reply] = []
        self.replies: list[Reply] = []
        self.calls: list[Call] = []
        self.posted = threading.Semaphore(0)
        self.seq = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def serving(self) -> Iterator["ScriptedApi"]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def posts(self) -> list[tuple[str, Any]]:
        """What was posted about the execution: the last part of each path, and the body."""
        return [
            (c.path.partition(EXECUTION)[2], c.body) for c in self.calls if c.method == "POST" and EXECUTION in c.path
        ]

    def asked_for_streams(self) -> list[Call]:
        return [call for call in self.calls if call.path.endswith(("/execute/stream", "/events"))]


class _Handler(BaseHTTPRequestHandler):
    api: ScriptedApi

    def do_GET(self) -> None:
        self._note(None)
        if self.path.endswith("/events"):
            self._stream()
        else:
            self._answer(200, {"items": [{"id": str(uuid.uuid4()), "name": "friend"}], "next_cursor": None})

    def do_POST(self) -> None:
        self._note(json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"null"))
        if self.path.endswith("/execute/stream"):
            self._stream()
            return
        reply = self.api.replies.pop(0) if self.api.replies else Reply(200)
        self._answer(reply.status, {"message": reply.message})
        self.api.posted.release()

    def _note(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.api.calls.append(Call(self.command, self.path, headers, body))

    def _answer(self, status: int, body: Any) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def _stream(self) -> None:
        script = self.api.streams.pop(0)
        if isinstance(script, Reply):
            self._answer(script.status, {"message": script.message})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"retry: 2000\n\n")
        for step in script:
            if step == POSTED:
                self.api.posted.acquire(timeout=20)
            elif isinstance(step, tuple):
                self._send(*step)
        self.close_connection = True

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        self.api.seq += 1
        eid = f"01900000-0000-7000-8000-{self.api.seq:012d}"
        about = {"t": "event", "ch": f"execution:{EXECUTION}", "seq": self.api.seq, "eid": eid, "ts": 1}
        frame = about | {"type": kind, "data": data}
        self.wfile.write(f"id: e:{self.api.seq}\nevent: {kind}\ndata: {json.dumps(frame)}\n\n".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Says nothing."""
