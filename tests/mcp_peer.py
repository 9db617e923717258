"""An MCP server over HTTP that does what a test tells it to, in the revisions of the protocol that a test names."""

import json
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATELESS = "2026-07-28"
HANDSHAKE = "2025-11-25"
META = "io.modelcontextprotocol/"
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}

Json = dict[str, Any]


def tool(name: str, schema: Json | None = None, **more: Any) -> Json:
    return {"name": name, "description": f"The tool {name}", "inputSchema": schema or TEXT, **more}


def text(said: str, **more: Any) -> Json:
    return {"content": [{"type": "text", "text": said}], **more}


@dataclass
class Request:
    """What came, as it came."""

    method: str
    params: Json
    headers: dict[str, str]


@dataclass
class Script:
    """How a tool answers, in place of saying what it was told."""

    result: Json | None = None
    error: Json | None = None
    progress: list[Json] = field(default_factory=list)
    hang: bool = False
    """Until the client leaves, or `Peer.go_on` is set."""
    reset: bool = False
    """The connection breaks in the middle of the answer."""
    garbage: bytes | None = None
    huge: int = 0
    """So many bytes of an answer that never ends well."""
    status: int = 0
    asks: str | None = None
    """A request to the client before the answer."""
    resumed: bool = False
    """Ends the stream before the answer, which comes in another one."""
    times: int = 1_000_000


class Peer:
    def __init__(self, *revisions: str, streams: bool = True):
        self.revisions = revisions or (STATELESS, HANDSHAKE)
        self.streams = streams
        self.tools: list[Any] = [tool("echo")]
        self.page = 1000
        self.token: str | None = None
        self.discovered: Json = {"supportedVersions": [STATELESS], "capabilities": {"tools": {}}}
        self.greeting_hangs = False
        self.redirect: str | None = None
        self.list_garbage: bytes | None = None
        self.requests: list[Request] = []
        self.notifications: list[Request] = []
        self.replies: list[Json] = []
        self.tokens_given = 0
        self.token_form: Json = {}
        self.left = 0
        """Clients that went away while they were to be answered."""
        self.closed_sessions: list[str] = []
        self.sessions: set[str] = set()
        self.go_on = threading.Event()
        self.scripts: dict[str, Script] = {}
        self.late: dict[str, Json] = {}
        self.port = 0
        self.start()

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"peer": self})
        self._http = _Http(("127.0.0.1", self.port), handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """As when its process ends: nothing listens there, and all connections break."""
        self._http.shutdown()
        self._http.server_close()
        self._http.break_connections()

    def restart(self) -> None:
        """Silently: it forgets its sessions."""
        self.stop()
        self.sessions.clear()
        self.start()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.stop()

    def script(self, name: str, **how: Any) -> None:
        self.scripts[name] = Script(**how)

    def called(self, name: str) -> list[Request]:
        return [one for one in self.requests if one.method == "tools/call" and one.params["name"] == name]

    def wait(self, what: Callable[[], Any], seconds: float = 10) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, "It never came"
            time.sleep(0.01)
        return found


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments: Any):
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    peer: Peer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_DELETE(self) -> None:
        session = self.headers.get("mcp-session-id", "")
        self.peer.closed_sessions.append(session)
        self.peer.sessions.discard(session)
        self._send(200)

    def do_GET(self) -> None:
        """A stream that goes on, or the health check."""
        if self._redirected():
            return
        late = self.peer.late.pop(self.headers.get("last-event-id", ""), None)
        if late is None:
            self._send(200 if self.path == "/health" else 405)
        else:
            self._stream([late])

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        if self._redirected():
            return
        if self.path == "/token":
            self._token(raw)
            return
        message = json.loads(raw)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.peer.token is not None and headers.get("authorization") != f"Bearer {self.peer.token}":
            self._send(401)
        elif "method" not in message:
            self.peer.replies.append(message)
            self._send(202)
        elif "id" not in message:
            self.peer.notifications.append(Request(message["method"], message.get("params", {}), headers))
            self._send(202)
        else:
            request = Request(message["method"], message.get("params", {}), headers)
            self.peer.requests.append(request)
            try:
                self._answer(message["id"], request)
            except (BrokenPipeError, ConnectionResetError):
                self.peer.left += 1

    def _redirected(self) -> bool:
        if self.peer.redirect is None:
            return False
        self.send_response(307)
        self.send_header("location", self.peer.redirect)
        self.send_header("content-length", "0")
        self.end_headers()
        return True

    def _token(self, raw: bytes) -> None:
        self.peer.token_form = {
            "authorization": self.headers.get("authorization"),
            **dict(pair.split("=") for pair in raw.decode().split("&")),
        }
        self.peer.tokens_given += 1
        self.peer.token = f"token-{self.peer.tokens_given}"
        self._json({"access_token": self.peer.token, "token_type": "Bearer", "expires_in": 3600})

    def _answer(self, number: int, request: Request) -> None:
        peer = self.peer
        stateless = request.headers.get("mcp-protocol-version") == STATELESS
        if request.method != "initialize" and stateless and STATELESS not in peer.revisions:
            self._json(_error(number, -32601, "Method not found"), 400)
            return
        if peer.greeting_hangs:
            self._hang()
        if request.method == "initialize":
            self._initialize(number, request)
        elif stateless and (fault := _stateless_fault(request)):
            self._json(_error(number, -32020, fault), 400)
        elif not stateless and request.headers.get("mcp-session-id") not in peer.sessions:
            self._send(404)
        else:
            self._serve(number, request)

    def _initialize(self, number: int, request: Request) -> None:
        if HANDSHAKE not in self.peer.revisions:
            data = {"supported": [STATELESS], "requested": request.params["protocolVersion"]}
            self._json(_error(number, -32022, "Unsupported protocol version", data), 400)
            return
        session = uuid.uuid4().hex
        self.peer.sessions.add(session)
        result = {
            "protocolVersion": HANDSHAKE,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "p", "version": "1"},
        }
        self._json(_result(number, result), headers={"mcp-session-id": session})

    def _serve(self, number: int, request: Request) -> None:
        peer = self.peer
        if request.method == "server/discover":
            self._json(_result(number, peer.discovered))
        elif request.method == "tools/list" and peer.list_garbage is not None:
            self._raw(peer.list_garbage)
        elif request.method == "tools/list":
            start = int(request.params.get("cursor", 0))
            end = start + peer.page
            more = {"nextCursor": str(end)} if end < len(peer.tools) else {}
            self._json(_result(number, {"tools": peer.tools[start:end], **more}))
        else:
            self._call(number, request)

    def _call(self, number: int, request: Request) -> None:
        name, arguments = request.params["name"], request.params["arguments"]
        script = self.peer.scripts.get(name, Script())
        if script.times <= 0:
            script = Script()
        script.times -= 1
        if not any(isinstance(one, dict) and one.get("name") == name for one in self.peer.tools):
            self._json(_error(number, -32602, f"Unknown tool: {name}"))
        elif script.status:
            self._send(script.status)
        elif script.garbage is not None:
            self._raw(script.garbage)
        elif script.huge:
            self._huge(script.huge)
        elif script.error is not None:
            self._json({"jsonrpc": "2.0", "id": number, "error": script.error})
        else:
            answer = _result(number, script.result or text(str(arguments.get("text", ""))))
            self._speak(number, request, script, answer)

    def _speak(self, number: int, request: Request, script: Script, answer: Json) -> None:
        if not self.peer.streams:
            if script.hang:
                self._hang()
            self._json(answer)
            return
        self._stream(self._events(number, request, script, answer))

    def _events(self, number: int, request: Request, script: Script, answer: Json) -> Iterator[Json]:
        for progress in script.progress:
            token = request.params["_meta"]["progressToken"]
            yield {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, **progress}}
            time.sleep(0.15)
        if script.asks is not None:
            yield {"jsonrpc": "2.0", "id": "theirs", "method": script.asks}
        if script.hang:
            self._hang()
        if script.reset:
            self._reset()
        if script.resumed:
            self.peer.late[f"event-{number}"] = answer
            yield {"event_id": f"event-{number}"}
            return
        yield answer

    def _hang(self) -> None:
        """Until the client leaves, which it shows by closing the connection."""
        self.connection.settimeout(0.05)
        while not self.peer.go_on.is_set():
            try:
                if not self.connection.recv(1):
                    raise ConnectionResetError
            except TimeoutError:
                continue
        self.connection.settimeout(None)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        raise ConnectionResetError

    def _huge(self, size: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(size))
        self.end_headers()
        part = b"x" * 65536
        for _ in range(size // len(part)):
            self.wfile.write(part)

    def _stream(self, messages: "Iterator[Json] | list[Json]") -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for message in messages:
            event = message.pop("event_id", None)
            said = (
                f"id: {event}\nretry: 10\ndata: \n\n" if event else f"event: message\ndata: {json.dumps(message)}\n\n"
            )
            self.wfile.write(said.encode())
            self.wfile.flush()
        self.close_connection = True

    def _json(self, message: Json, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._raw(json.dumps(message).encode(), status, headers)

    def _raw(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


def _result(number: int, result: Json) -> Json:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def _error(number: int, code: int, message: str, data: Json | None = None) -> Json:
    error = {"code": code, "message": message} | ({"data": data} if data else {})
    return {"jsonrpc": "2.0", "id": number, "error": error}


def _stateless_fault(request: Request) -> str | None:
    """What a server of revision 2026-07-28 refuses a request for."""
    meta = request.params.get("_meta", {})
    if meta.get(f"{META}protocolVersion") != STATELESS or f"{META}clientCapabilities" not in meta:
        return "The request does not say who asks"
    if request.headers.get("mcp-method") != request.method:
        return "The header Mcp-Method is another one"
    if request.method == "tools/call" and request.headers.get("mcp-name") != request.params["name"]:
        return "The header Mcp-Name is another one"
    return None
