"""A server that is stopped: it serves on until all who listen have gone elsewhere, each in its slot."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import create_connection

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.conftest import KEY, QUICK, FreshServer, Server
from tests.model_server import ModelServer, Reply
from tests.runs import SSE, make_agent, start
from tests.servers import ValkeyServer
from tests.sockets import Frame, Socket, conversing, opened

CROWD = 40
SETTINGS = {"AI_AGENT_WS_MAX_CONNECTIONS_PER_USER": "100", **QUICK}


@pytest.fixture
def serve(model: ModelServer, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def started(**settings: str) -> Server:
            settings = {"OPENAI_BASE_URL": f"{model.url}/v1", **SETTINGS, **settings}
            server = Server(f"sqlite:///{tmp_path}/test.db", tmp_path, **settings)
            stack.callback(server.stop, signal.SIGKILL)
            return server

        yield started


class Leaving(threading.Thread):
    """Hears what a socket is told from now on, to its end."""

    def __init__(self, socket: Socket):
        super().__init__(daemon=True)
        self._socket = socket
        self.frames: list[Frame] = []
        self.code = 0
        self.at: list[float] = []
        self.start()

    def run(self) -> None:
        try:
            while True:
                self.frames.append(self._socket.receive())
                self.at.append(time.monotonic())
        except ConnectionClosed as closed:
            self.at.append(time.monotonic())
            self.code = closed.rcvd.code if closed.rcvd else 1006

    def whole(self) -> "Leaving":
        self.join(20)
        assert not self.is_alive()
        return self

    @property
    def kinds(self) -> list[str]:
        return [frame["t"] for frame in self.frames]


@contextmanager
def crowd(server: Server) -> Iterator[list[Socket]]:
    with ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        yield list(threads.map(lambda _: stack.enter_context(conversing(server)), range(CROWD)))


def is_ready(server: Server) -> bool:
    return httpx.get(f"{server.url}/health/ready").status_code == 200


def until(true: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_load_balancer_has_the_delay_to_see_that_it_is_not_ready(serve: Callable[..., Server]) -> None:
    server = serve(AI_AGENT_DRAIN_DELAY_SECONDS="1.5")
    with conversing(server) as socket, server.client() as api:
        assert "connection" not in api.get("/sessions").headers
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not is_ready(server), 1)
        answer = api.get("/sessions")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        with conversing(server) as late:
            assert late.receive()["t"] == "drain"
            assert time.monotonic() - asked >= 1.5
        frames, code, _ = socket.closed()
        assert ([frame["t"] for frame in frames], code) == (["drain", "bye"], 4420)
    assert server.process.wait(5) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(("window", "spread"), [("30", CROWD / 25), ("0.8", 0.8), ("0", 0.0)])
def test_sockets_go_one_after_the_other_within_the_window(
    serve: Callable[..., Server], window: str, spread: float
) -> None:
    server = serve(AI_AGENT_DRAIN_WINDOW_SECONDS=window)
    with crowd(server) as sockets:
        leaving = [Leaving(socket) for socket in sockets]
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        gone = [one.whole() for one in leaving]
    assert server.process.wait(5) == 0
    assert time.monotonic() - asked < spread + 2
    assert [(one.kinds, one.code) for one in gone] == [(["drain", "bye"], 4420)] * CROWD
    slots = sorted(one.frames[0]["after_ms"] for one in gone)
    assert slots == [round(spread * place / CROWD * 1000) for place in range(CROWD)]
    for one in gone:
        drain, bye = one.frames
        assert (drain["reason"], bye["code"], bye["reason"], bye["reconnect"]) == ("deploy", 4420, "draining", True)
        assert 0 <= bye["after_ms"] < 500
        assert -0.05 < one.at[-1] - one.at[0] - drain["after_ms"] / 1000 < 0.5, "It did not go in its slot"


def test_until_its_slot_a_socket_hears_and_asks_all(serve: Callable[..., Server]) -> None:
    server = serve()
    with server.client() as api:
        session_id = api.post("/sessions", json={}).json()["id"]
    with crowd(server) as sockets, server.client() as api:
        for socket in sockets:
            assert socket.ask("subscribe", ch=f"session:{session_id}", **{"from": "earliest"})["t"] == "subscribed"
            socket.until("live")
        server.process.send_signal(signal.SIGTERM)
        slots = {socket: socket.until("drain")[-1]["after_ms"] for socket in sockets}
        last = max(slots, key=lambda socket: slots[socket])
        assert slots[last] > 1000
        posted = api.post(f"/sessions/{session_id}/messages", json={"content": "while it drains"})
        assert posted.status_code == 201
        told = iter(lambda: last.events(1)[0], None)  # The session's own beginning may be told now, too.
        assert next(event for event in told if event["type"] == "message.created")["data"] == posted.json()
        params = {"session_id": session_id, "content": "asked while it drains"}
        assert last.ask("call", method="message.create", params=params)["t"] == "reply"
        assert last.closed()[1] == 4420
    assert server.process.wait(5) == 0


def metric(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


def test_nobody_new_is_let_in_while_sockets_go(serve: Callable[..., Server]) -> None:
    server = serve()
    with crowd(server) as sockets:
        assert metric(server, "ai_agent_ws_drain_seconds") == 0
        server.process.send_signal(signal.SIGTERM)
        sockets[0].until("drain")
        with opened(server) as late:
            (error, bye), code, _ = late.closed()
        assert (error["code"], error["status"], error["retryable"]) == ("service_unavailable", 503, True)
        assert (bye["code"], bye["reconnect"], code) == (4503, True, 4503)
        assert 0 < metric(server, "ai_agent_ws_drain_seconds") < 2
    assert server.process.wait(5) == 0


def test_a_stream_ends_with_the_time_to_come_back(serve: Callable[..., Server], model: ModelServer) -> None:
    server = serve()
    model.script(Reply("one two three four", pause_after=2))
    with server.client() as api:
        path = f"/executions/{start(api, make_agent(api))['id']}/events"
        with api.stream("GET", path, headers=SSE) as response:
            lines = response.iter_lines()
            next(line for line in lines if line == "event: execution.token")
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
    assert rest, "It was cut"
    found = re.fullmatch(r"retry: (\d+)", rest[-1])
    assert found is not None, rest
    assert 250 <= int(found[1]) <= 2000
    model.go_on.set()
    assert server.process.wait(5) == 0


def test_a_request_that_does_not_end_gets_what_is_left_of_the_window(serve: Callable[..., Server]) -> None:
    server = serve(AI_AGENT_DRAIN_WINDOW_SECONDS="2")
    with crowd(server), create_connection(("127.0.0.1", server.port), timeout=10) as stuck:
        head = f"POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        stuck.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert stuck.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert CROWD / 25 < time.monotonic() - asked < 3.8, "1.6 s for the sockets, and less than two behind that"
    assert server.process.wait(5) == 0


def test_a_server_that_nobody_listens_to_stops_at_once(serve: Callable[..., Server]) -> None:
    server = serve(AI_AGENT_DRAIN_WINDOW_SECONDS="20")
    asked = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - asked < 1


def test_a_lone_client_does_not_hold_up_a_stop(serve: Callable[..., Server]) -> None:
    server = serve(AI_AGENT_DRAIN_WINDOW_SECONDS="20")
    with conversing(server) as socket:
        asked = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert socket.closed()[1] == 4420
        assert server.process.wait(5) == 0
        assert time.monotonic() - asked < 1


def test_the_same_signal_again_does_not_wait(serve: Callable[..., Server]) -> None:
    server = serve(AI_AGENT_DRAIN_DELAY_SECONDS="30")
    for number in (signal.SIGINT, signal.SIGTERM):  # As a supervisor in a terminal sends them.
        server.process.send_signal(number)
    until(lambda: not is_ready(server), 1)
    time.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(1) == 1


class Uvicorn(FreshServer):
    """The application under uvicorn's own command, in two processes."""

    @staticmethod
    def spawn(
        arguments: list[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> "subprocess.Popen[bytes]":
        port = arguments[arguments.index("--port") + 1]
        command = [sys.executable, "-m", "uvicorn", "--factory", "ai_agent.app:from_environment", "--port", port]
        with log.open("wb") as output:
            return subprocess.Popen(
                [*command, "--workers", "2"], env=environment, stdout=output, stderr=output, cwd=folder, process_group=0
            )


@pytest.mark.parametrize("terminal", [False, True])
def test_processes_under_uvicorns_command_drain_as_well(
    empty_postgres: str, valkey: ValkeyServer, tmp_path: Path, terminal: bool
) -> None:
    server = Uvicorn(empty_postgres, tmp_path, AI_AGENT_REDIS_URL=valkey.url, **SETTINGS)
    try:
        until(lambda: server.log.read_text().count("Application startup complete") == 2, 20)
        with crowd(server) as sockets:
            leaving = [Leaving(socket) for socket in sockets]
            with server.client() as api:
                connections = api.get("/admin/connections", params={"limit": 100}).json()["items"]
            assert len({connection["node"] for connection in connections}) == 2
            if terminal:  # It sends Ctrl-C to all processes; the first one then sends SIGTERM to the others.
                os.killpg(server.process.pid, signal.SIGINT)
            else:
                server.process.send_signal(signal.SIGTERM)
            gone = [one.whole() for one in leaving]
        assert server.process.wait(10) == 0
    finally:
        server.process.kill()
    assert [(one.kinds, one.code) for one in gone] == [(["drain", "bye"], 4420)] * CROWD
    assert "Traceback" not in server.log.read_text()


def test_a_server_that_reloads_drains_as_well(tmp_path: Path) -> None:
    server = FreshServer(f"sqlite:///{tmp_path}/test.db", tmp_path, "--reload", **SETTINGS)
    try:
        with conversing(server) as socket:
            server.process.send_signal(signal.SIGTERM)
            frames, code, _ = socket.closed()
        assert ([frame["t"] for frame in frames], code) == (["drain", "bye"], 4420)
        assert server.process.wait(10) == 0
    finally:
        server.process.kill()
