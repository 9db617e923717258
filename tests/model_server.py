"""A model provider that says what a test tells it to, over the real protocols of OpenAI and Anthropic."""

import json
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One answer. Without a script the server answers `You said: …`."""

    text: str = ""
    delay: float = 0
    pause_after: int | None = None
    """After so many words the model thinks until `ModelServer.go_on` is set."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    reset_after: int | None = None
    garbage: bool = False


class ModelServer:
    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.disconnects = 0
        self.key: str | None = None
        self.go_on = threading.Event()
        self._script: deque[Reply] = deque()
        handler = type("Handler", (_Handler,), {"model": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "ModelServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def script(self, *replies: Reply) -> None:
        self._script.extend(replies)

    def next_reply(self, body: dict[str, Any]) -> Reply:
        if self._script:
            return self._script.popleft()
        content = body["messages"][-1]["content"]
        return Reply(f"You said: {content if isinstance(content, str) else content[0]['text']}")


class _Handler(BaseHTTPRequestHandler):
    model: ModelServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        """The list of models, which `doctor` asks for."""
        self.send_response(200 if self.model.key in (None, self.headers.get("x-api-key")) else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.model.requests.append({"path": self.path, "headers": dict(self.headers), **body})
        reply = self.model.next_reply(body)
        try:
            self._answer(reply)
        except (BrokenPipeError, ConnectionResetError):
            self.model.disconnects += 1
        self.close_connection = True

    def _answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        streamed = reply.status == 200 and not reply.garbage
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        if not streamed:
            self.wfile.write(b"{<garbage" if reply.garbage else b'{"error": {"message": "secret inside"}}')
            return
        words = [word if i == 0 else f" {word}" for i, word in enumerate(reply.text.split(" "))]
        frames = self._anthropic(words) if self.path.endswith("/messages") else self._openai(words)
        for number, frame in enumerate(frames):
            if reply.reset_after == number:
                # Lingering for no time makes closing a reset, which no client takes for the end of an answer.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.rfile.close()
                self.wfile.close()
                self.connection.close()
                raise ConnectionResetError
            if reply.pause_after == number:
                self.model.go_on.wait(20)
            time.sleep(reply.delay)
            self.wfile.write(frame)
            self.wfile.flush()

    def _openai(self, words: list[str]) -> list[bytes]:
        def chunk(**more: Any) -> bytes:
            base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
            return f"data: {json.dumps(base | more)}\n\n".encode()

        chunks = [chunk(choices=[{"index": 0, "delta": {"content": w}, "finish_reason": None}]) for w in words]
        chunks.append(chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
        return [*chunks, chunk(choices=[], usage=usage), b"data: [DONE]\n\n"]

    def _anthropic(self, words: list[str]) -> list[bytes]:
        def event(kind: str, **more: Any) -> bytes:
            return f"event: {kind}\ndata: {json.dumps({'type': kind} | more)}\n\n".encode()

        message: dict[str, Any] = {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": 1},
        }
        deltas = [event("content_block_delta", index=0, delta={"type": "text_delta", "text": w}) for w in words]
        return [
            event("message_start", message=message),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *deltas,
            event("content_block_stop", index=0),
            event(
                "message_delta",
                delta={"stop_reason": "end_turn", "stop_sequence": None},
                usage={"output_tokens": len(words)},
            ),
            event("message_stop"),
        ]
