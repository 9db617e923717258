"""A model provider that says what a test tells it to, over the real protocols of OpenAI and Anthropic."""

import json
import socket
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Call:
    """A tool call that the model asks for; `arguments` as text are sent as they are, also when they are no JSON."""

    name: str
    arguments: dict[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass
class Reply:
    """One answer: words, tool calls, or both. Without a script the server answers `You said: …`."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)
    usage: bool = True
    """Whether it tells how many tokens that were."""
    hang: bool = False
    """Never answers, until the client leaves."""
    endless: bool = False
    """Says its words again and again."""
    cut: bool = False
    """Closes the connection properly, but in the middle of the answer."""
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
        self.looks = 0
        """Requests that were no questions."""
        self.key: str | None = None
        self.go_on = threading.Event()
        self.longest_pause = 20.0
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
        if not isinstance(content, str):
            content = content[0].get("text", content[0].get("content", ""))
        return Reply(f"You said: {content}")


class _Handler(BaseHTTPRequestHandler):
    model: ModelServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        """The list of models, which `doctor` asks for."""
        self.model.looks += 1
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
        if reply.hang:
            self.connection.settimeout(20)
            self.rfile.read(1)
            raise ConnectionResetError
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
        frames = self._anthropic(reply) if self.path.endswith("/messages") else self._openai(reply)
        for number, frame in enumerate(frames):
            if reply.reset_after == number:
                # Lingering for no time makes closing a reset, which no client takes for the end of an answer.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.rfile.close()
                self.wfile.close()
                self.connection.close()
                raise ConnectionResetError
            if reply.pause_after == number:
                self.model.go_on.wait(self.model.longest_pause)
            time.sleep(reply.delay)
            self.wfile.write(frame)
            self.wfile.flush()

    def _openai(self, reply: Reply) -> Iterator[bytes]:
        def chunk(**more: Any) -> bytes:
            base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
            return f"data: {json.dumps(base | more)}\n\n".encode()

        def delta(reason: str | None = None, **what: Any) -> bytes:
            return chunk(choices=[{"index": 0, "delta": what, "finish_reason": reason}])

        said = 0
        for word in _words(reply):
            said += 1
            yield delta(content=word)
        for index, call in enumerate(reply.calls):
            function = {"name": call.name, "arguments": ""}
            yield delta(tool_calls=[{"index": index, "id": call.id or _id(), "type": "function", "function": function}])
            yield delta(tool_calls=[{"index": index, "function": {"arguments": call.text}}])
        if reply.cut:
            return
        yield delta("tool_calls" if reply.calls else "stop")
        if reply.usage:
            usage = {"prompt_tokens": 7, "completion_tokens": said, "total_tokens": 7 + said}
            yield chunk(choices=[], usage=usage)
        yield b"data: [DONE]\n\n"

    def _anthropic(self, reply: Reply) -> Iterator[bytes]:
        def event(kind: str, **more: Any) -> bytes:
            return f"event: {kind}\ndata: {json.dumps({'type': kind} | more)}\n\n".encode()

        def delta(index: int, kind: str, **what: Any) -> bytes:
            return event("content_block_delta", index=index, delta={"type": kind} | what)

        message: dict[str, Any] = {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": 1}
            if reply.usage
            else {"input_tokens": 0, "output_tokens": 0},
        }
        yield event("message_start", message=message)
        said = 0
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for word in _words(reply):
            said += 1
            yield delta(0, "text_delta", text=word)
        yield event("content_block_stop", index=0)
        for index, call in enumerate(reply.calls, 1):
            block = {"type": "tool_use", "id": call.id or _id(), "name": call.name, "input": {}}
            yield event("content_block_start", index=index, content_block=block)
            yield delta(index, "input_json_delta", partial_json=call.text)
            yield event("content_block_stop", index=index)
        if reply.cut:
            return
        yield event(
            "message_delta",
            delta={"stop_reason": "tool_use" if reply.calls else "end_turn", "stop_sequence": None},
            usage={"output_tokens": said if reply.usage else 0},
        )
        yield event("message_stop")


def _words(reply: Reply) -> Iterator[str]:
    if reply.calls and not reply.text:
        return
    words = [word if i == 0 else f" {word}" for i, word in enumerate(reply.text.split(" "))]
    yield from words
    while reply.endless:
        yield from words


def _id() -> str:
    return f"call_{uuid.uuid4().hex[:12]}"
