"""Requests that are too long in the head, or too slow: answered in the contract's way, and not waited for."""

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from ai_agent.cli import protocols
from ai_agent.cli.protocols import HEAD_BYTES, HttpProtocol, SocketProtocol
from tests.conftest import KEY, Server

LINE = b"GET /api/v1/health/live HTTP/1.1\r\nhost: x\r\n"


def spoken(server: Server, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    """Status and body of what is answered to bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        answer = b""
        for piece in pieces:
            connection.sendall(piece)
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            if not (more := connection.recv(65536)):
                break
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


def head_of(size: int) -> bytes:
    """A request whose head is so long, as the server counts it: address, names and values."""
    fixed = len(b"/api/v1/health/live") + len(b"hostx: \r\n") + len(b"x-long: \r\n")
    return LINE + b"x-long: " + b"a" * (size - fixed) + b"\r\n\r\n"


def test_a_head_has_a_size(server: Server) -> None:
    assert spoken(server, head_of(HEAD_BYTES)) == (200, {"status": "alive"})
    status, error = spoken(server, head_of(HEAD_BYTES + 1))
    assert (status, error["code"]) == (400, "malformed_request")
    assert error["message"] == f"The head of the request is longer than {HEAD_BYTES} bytes"
    # Who sends on and on is cut, perhaps before it reads why.
    with suppress(ConnectionError):
        assert spoken(server, head_of(50_000_000))[0] == 400


def test_many_headers_and_a_long_address_are_a_long_head(server: Server) -> None:
    many = LINE + b"".join(b"x-%06d: a\r\n" % number for number in range(6_000)) + b"\r\n"
    assert spoken(server, many)[0] == 400
    assert spoken(server, b"GET /" + b"a" * 65_600 + b" HTTP/1.1\r\nhost: x\r\n\r\n")[0] == 400


def test_a_head_without_an_end_is_not_kept(server: Server) -> None:
    status, error = spoken(server, LINE + b"x-long: ", *[b"a" * 10_000] * 7)
    assert (status, error["code"]) == (400, "malformed_request")


def test_a_body_is_no_head(server: Server, api: httpx.Client) -> None:
    """They may arrive together, and the next request behind them."""
    content = json.dumps({"title": "x", "metadata": {"text": "y" * 15_000}}).encode()
    one = b"POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-type: application/json\r\n"
    one = one % KEY.encode() + b"content-length: %d\r\n\r\n" % len(content) + content
    assert spoken(server, one * 12)[0] == 201
    large = [{"content": "z" * 20_000}] * 60
    session = api.post("/sessions", json={}).json()["id"]
    assert api.post(f"/sessions/{session}/messages/bulk-create", json=large).status_code == 201


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a scenario against a server of the protocol alone, which waits for half a second."""
    monkeypatch.setattr(protocols, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(protocols, "LOOK_SECONDS", 0.05)

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        await asyncio.sleep(1)  # Whoever is answered is not hurried.
        await send({"type": "http.response.body", "body": b"}\n"})

    async def play(scenario: Any) -> None:
        config = uvicorn.Config(echo, http=HttpProtocol, ws=SocketProtocol, log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        state = ServerState()
        listening = await loop.create_server(lambda: HttpProtocol(config, state, {}), "127.0.0.1", 0)
        try:
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            await scenario(reader, writer)
            writer.close()
            await writer.wait_closed()
        finally:
            listening.close()

    return lambda scenario: asyncio.run(play(scenario))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{",
        b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
    ],
)
def test_a_request_that_does_not_arrive_is_not_waited_for(impatient: Callable[..., Any], sent: bytes) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"The request did not arrive within 0.5 s" in answer

    impatient(scenario)


def test_who_is_answered_is_not_hurried(impatient: Callable[..., Any]) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(5):
                assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200 ")

    impatient(scenario)


def test_a_socket_stays_open(impatient: Callable[..., Any]) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        writer.write(asked + b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.8):
                await reader.read(1)

    impatient(scenario)
