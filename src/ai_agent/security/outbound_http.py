"""HTTP through the outbound guard. Imported by what goes out, never at a start."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import cache, partial
from ssl import SSLContext

import httpcore2
import httpx2

from ai_agent.observability.traced_http import traced_client
from ai_agent.security.outbound import OutboundGuard, OutboundRefused

Connect = Callable[..., Awaitable[httpcore2.AsyncNetworkStream]]

CONNECT_SECONDS = 2.0
MAX_CONNECTIONS = 100


def guarded_client(guard: OutboundGuard, *, max_bytes: int, timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    """A client for addresses that users name: no proxy, no redirect, no compression, `max_bytes` an answer.

    A proxy would resolve the name again, and a redirect would take the credentials along. Raises OutboundRefused.
    """
    transport = GuardedTransport(guard, max_bytes)
    return traced_client(
        httpx2.AsyncClient(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)
    )


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """Connects where the guard allows it, and reads so many bytes of an answer."""

    def __init__(self, guard: OutboundGuard, max_bytes: int):
        # In place of the pool that the library would make, which resolves names by itself.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=_certificates(),
            max_connections=MAX_CONNECTIONS,
            # Each request is checked anew, and no server of a user's keeps our sockets open.
            max_keepalive_connections=0,
            network_backend=_GuardedNetwork(guard),
        )
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        # What is not compressed cannot unfold into more than was counted.
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise OutboundRefused("The server compressed its answer, though it was asked not to")
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101  # the base is asynchronous
        response.stream = _Bounded(response.stream, self._max_bytes)
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, max_bytes: int):
        self._inner = inner
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._left -= len(part)
            if self._left < 0:
                raise OutboundRefused("The answer is too large")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class _GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Resolves once, and connects to an address that was checked. The name stays for Host, SNI and certificate."""

    def __init__(self, guard: OutboundGuard):
        self._guard = guard
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        budget = min(timeout or CONNECT_SECONDS, CONNECT_SECONDS)
        connect = partial(
            self._network.connect_tcp, port=port, local_address=local_address, socket_options=socket_options
        )
        try:
            async with asyncio.timeout(budget):
                addresses = await self._guard.checked(host, port)
                return await _first(connect, addresses, budget / len(addresses))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"No connection within {budget:g} s") from error
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError("The host's name has no address") from error

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


async def _first(connect: Connect, addresses: list[str], seconds: float) -> httpcore2.AsyncNetworkStream:
    """The first address that answers; each but the last gets its share of the time."""
    for address in addresses[:-1]:
        try:
            return await connect(address, timeout=seconds)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
            continue
    return await connect(addresses[-1])


@cache
def _certificates() -> SSLContext:
    """Made once: it costs 20 ms of CPU. The operator's SSL_CERT_FILE counts."""
    return httpx2.create_ssl_context()
