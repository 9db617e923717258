"""The outbound guard: no spelling of a private address, and no trick of a resolver or a server, leads inside."""

import asyncio
import contextlib
import gzip
import select
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpcore2
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ai_agent.domain.fields import now
from ai_agent.security import outbound_http
from ai_agent.security.addresses import reachable
from ai_agent.security.outbound import OutboundGuard, OutboundRefused
from ai_agent.security.outbound_http import guarded_client

LOOPBACK = ip_network("127.0.0.0/8")
EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))

# What getaddrinfo or a browser takes for this machine.
LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7F.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "0177.1",
    "017700000001",
    "00000177.0.0.1",
    "0",
    "0.0.0.0",
    "0x0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "localhost.localdomain",
    "me.localhost",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::80ff:fffe]",
    "[::ffff:0:127.0.0.1]",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "１２７.0.0.1",  # noqa: RUF001  # full-width, which is the point
    "127。0。0。1",
    "①②⑦.⓪.⓪.①",
    "ⓛocalhost",
]
INSIDE = [
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[fd00:ec2::254]",
    "metadata.google.internal",
    "10.0.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[100::1]",
]


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    """Listens on every address of this machine."""
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def was_reached(canary: socket.socket) -> bool:
    return bool(select.select([canary], [], [], 0.02)[0])


def fetch(url: str, guard: OutboundGuard, *, max_bytes: int = 10_000) -> httpx2.Response:
    async def scenario() -> httpx2.Response:
        async with guarded_client(guard, max_bytes=max_bytes, timeout=httpx2.Timeout(0.5)) as http:
            return await http.get(url)

    return asyncio.run(scenario())


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS + INSIDE)
def test_no_spelling_of_a_private_address_is_written_or_connected_to(canary: socket.socket, host: str) -> None:
    guard = OutboundGuard([])
    url = f"http://{host}:{port_of(canary)}/v1"
    assert guard.fault(url)
    with pytest.raises((OutboundRefused, httpx2.InvalidURL, httpx2.ConnectError)):
        fetch(url, guard)
    assert not was_reached(canary)


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f.1", "0177.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_the_same_is_reached_when_the_operator_allows_it(canary: socket.socket, host: str) -> None:
    guard = OutboundGuard(EVERYWHERE)
    url = f"http://{host}:{port_of(canary)}/v1"
    assert guard.fault(url) is None
    with pytest.raises(httpx2.ReadTimeout):
        fetch(url, guard)
    assert was_reached(canary)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "//example.com/",
        "example.com",
        "http://",
        "http:///v1",
        "https://user:password@example.com/",
        "http://example.com@127.0.0.1/",
        "http://127.0.0.1#@example.com/",
        "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "http://exam ple.com/",
        "http://example.com/\r\nHost: x",
        "http://example.com:99999/",
        "http://example.com:x/",
        "http://example..com/",
        "http://.example.com/",
        "http://1.2.3.4.5/",
        "http://999.1.1.1/",
        "http://0x1ffffffff/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://bücher.example/",
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_no_address(url: str) -> None:
    assert OutboundGuard(EVERYWHERE).fault(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "http://8.8.8.8:8080/v1?version=2",
        "https://xn--bcher-kva.example/",
        "https://[2606:4700::1111]/v1",
        "HTTPS://API.EXAMPLE.COM",
        "https://local_host.example.com/@handle",
        "http://host.docker.internal:11434/v1",
    ],
)
def test_a_public_address_or_a_name_may_be_written(url: str) -> None:
    assert OutboundGuard([]).fault(url) is None


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_reachable(address: str) -> None:
    assert reachable(ip_address(address), [])


def test_a_password_in_an_address_is_not_repeated() -> None:
    assert "hunter2" not in str(OutboundGuard([]).fault("https://me:hunter2@example.com/"))


def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be connected to; nothing is."""
    tried: list[str] = []

    async def connect(_: object, host: str, *args: object, **kwargs: object) -> None:
        tried.append(host)
        raise httpcore2.ConnectError("Nobody there")

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
    return tried


def answering(*answers: list[str]) -> Callable[[str, int], Awaitable[list[str]]]:
    """A resolver that answers each question differently, as one does that rebinds."""
    left = list(answers)

    async def resolve(host: str, port: int) -> list[str]:
        return left.pop(0)

    return resolve


def test_a_name_that_is_rebound_leads_only_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = connections(monkeypatch)
    guard = OutboundGuard([], answering(["93.184.215.14"], ["127.0.0.1"]))
    with pytest.raises(httpx2.ConnectError):
        fetch("http://rebound.example/", guard)
    assert tried == ["93.184.215.14"]
    with pytest.raises(OutboundRefused):
        fetch("http://rebound.example/", guard)
    assert tried == ["93.184.215.14"]


def test_each_request_is_checked_anew() -> None:
    async def scenario() -> None:
        left = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            writer.close()
            left.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://kept.example:{server.sockets[0].getsockname()[1]}/"
        guard = OutboundGuard([LOOPBACK], answering(["127.0.0.1"], ["10.0.0.1"]))
        async with server:
            async with guarded_client(guard, max_bytes=1000, timeout=httpx2.Timeout(5)) as http:
                assert (await http.get(url)).text == "ok"
                with pytest.raises(OutboundRefused):
                    await http.get(url)
            await left.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize("answer", [["93.184.215.14", "10.0.0.1"], ["::1", "93.184.215.14"]])
def test_an_answer_with_one_bad_address_is_refused_whole(monkeypatch: pytest.MonkeyPatch, answer: list[str]) -> None:
    tried = connections(monkeypatch)
    with pytest.raises(OutboundRefused):
        fetch("http://mixed.example/", OutboundGuard([], answering(answer)))
    assert tried == []


def test_the_next_address_is_tried_when_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = connections(monkeypatch)
    with pytest.raises(httpx2.ConnectError):
        fetch("http://two.example/", OutboundGuard([], answering(["8.8.8.8", "8.8.4.4"])))
    assert tried == ["8.8.8.8", "8.8.4.4"]


def test_a_name_without_an_address_cannot_be_connected_to() -> None:
    with pytest.raises(httpx2.ConnectError):
        fetch("http://nothing.example/", OutboundGuard([], answering([])))


def test_a_resolver_that_hangs_costs_no_more_than_a_connection_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(host: str, port: int) -> list[str]:
        await asyncio.sleep(30)
        return []

    monkeypatch.setattr(outbound_http, "CONNECT_SECONDS", 0.1)
    started = time.monotonic()
    with pytest.raises(httpx2.ConnectTimeout):
        fetch("http://slow.example/", OutboundGuard([], hang))
    assert time.monotonic() - started < 1


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def served(answer: Answer, *, max_bytes: int = 10_000, path: str = "/") -> httpx2.Response:
    """What the guarded client makes of a server's answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await answer(writer)
        writer.close()

    async def scenario() -> httpx2.Response:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        guard = OutboundGuard([LOOPBACK])
        async with server, guarded_client(guard, max_bytes=max_bytes, timeout=httpx2.Timeout(5)) as http:
            return await http.get(f"http://127.0.0.1:{port}{path}")

    return asyncio.run(scenario())


def test_a_redirect_inside_is_not_followed() -> None:
    async def redirect(writer: asyncio.StreamWriter) -> None:
        location = b"http://169.254.169.254/latest/meta-data/"
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")

    assert served(redirect).status_code == 302


def test_a_redirect_that_is_followed_all_the_same_is_checked_again(canary: socket.socket) -> None:
    async def scenario() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            location = f"http://[::1]:{port_of(canary)}/"
            writer.write(f"HTTP/1.1 307 Away\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        guard = OutboundGuard([LOOPBACK])
        async with server, guarded_client(guard, max_bytes=1000, timeout=httpx2.Timeout(5)) as http:
            with pytest.raises(OutboundRefused):
                await http.get(url, follow_redirects=True)

    asyncio.run(scenario())
    assert not was_reached(canary)


@pytest.mark.parametrize(("size", "fits"), [(10_000, True), (10_001, False)])
def test_an_answer_has_a_size(size: int, fits: bool) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size)
        await writer.drain()

    if fits:
        assert len(served(answer).content) == size
    else:
        with pytest.raises(OutboundRefused, match="too large"):
            served(answer)


def test_an_answer_without_an_end_is_left() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    with pytest.raises(OutboundRefused, match="too large"):
        served(endless)


def test_a_compressed_answer_is_not_unfolded() -> None:
    async def bomb(writer: asyncio.StreamWriter) -> None:
        body = gzip.compress(b"\0" * 10_000_000)
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    with pytest.raises(OutboundRefused, match="compressed"):
        served(bomb, max_bytes=100_000)


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, canary: socket.socket) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port_of(canary)}")
    assert served(answer).text == "ok"
    assert not was_reached(canary)


def certificate(folder: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{name}.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize(("name", "trusted"), [("models.example", True), ("other.example", False)])
def test_the_name_stays_for_host_and_certificate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, trusted: bool
) -> None:
    pem = certificate(tmp_path, "models.example")
    monkeypatch.setattr(outbound_http, "_certificates", lambda: ssl.create_default_context(cafile=pem))
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def scenario() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        guard = OutboundGuard([LOOPBACK], answering(["127.0.0.1"]))
        async with server, guarded_client(guard, max_bytes=1000, timeout=httpx2.Timeout(5)) as http:
            await http.get(f"https://{name}:{port}/")

    if trusted:
        asyncio.run(scenario())
        assert b"Host: models.example" in heads[0]
    else:
        with pytest.raises(httpx2.ConnectError):
            asyncio.run(scenario())
        assert heads == []
