"""Spans of HTTP requests that go out, and `traceparent` in them. Imported by what goes out, never at a start."""

from typing import Any

import httpx2

from ai_agent.observability.tracing import carried, client_span, failed, is_on, told


def traced_client(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """The client whose requests have spans; as it is where nobody is told."""
    if is_on():
        client._transport = _Traced(client._transport)  # noqa: SLF001  # The library has no other way to wrap one
        client._mounts = {to: way and _Traced(way) for to, way in client._mounts.items()}  # noqa: SLF001  # that is made.
    return client


class _Traced(httpx2.AsyncBaseTransport):
    def __init__(self, transport: httpx2.AsyncBaseTransport):
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        # Without path and query: users write secrets there.
        where: dict[str, Any] = {"server.address": request.url.host, "server.port": request.url.port}
        asked = {"http.request.method": request.method, "url.scheme": request.url.scheme}
        with client_span(request.method, where | asked) as current:
            request.headers.update(carried())
            response = await self._transport.handle_async_request(request)
            told(current, {"http.response.status_code": response.status_code})
            if response.status_code >= 400:
                failed(current, str(response.status_code))
            return response

    async def aclose(self) -> None:
        await self._transport.aclose()
