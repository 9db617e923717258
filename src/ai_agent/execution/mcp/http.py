"""MCP over streamable HTTP, through the outbound guard. Imported by the first connection.

Every request is a POST of its own in the task of who asks, so nothing of a server runs when nobody asks.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import httpx2
import msgspec

from ai_agent.background import cancel_and_wait
from ai_agent.domain.fields import JsonObject
from ai_agent.execution.mcp.failures import McpFailed, McpLost, McpRefused, said
from ai_agent.execution.mcp.protocol import Hear, answer_to
from ai_agent.security.outbound import OutboundGuard, OutboundRefused
from ai_agent.security.outbound_http import guarded_client

MAX_BYTES = 8 * 1024 * 1024
"""Of one answer, and of one stream."""
ERROR_BYTES = 64 * 1024
FAREWELL_SECONDS = 1.0
RESUMES = 3
LONGEST_PAUSE = 5.0

_SESSION = "mcp-session-id"
_ASKS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


class Credentials(Protocol):
    """The headers that say who asks."""

    renewable: bool

    async def headers(self, *, renew: bool) -> Mapping[str, str]:
        """With `renew`, those that were given before are not good any more. Raises McpFailed."""


class _Stream(msgspec.Struct):
    """The request that is answered, and how far the events of its answer were read."""

    number: Any
    headers: Mapping[str, str]
    hear: Hear
    event_id: str = ""
    pause: float = 0.0
    resumes: int = 0


class HttpLink:
    stateless_first = True

    def __init__(self, guard: OutboundGuard, endpoint: str, credentials: Credentials):
        self._endpoint = endpoint
        self._credentials = credentials
        # The time-outs are the callers', for the whole of an answer; a connection has the guard's own.
        self._http = guarded_client(guard, max_bytes=MAX_BYTES, timeout=httpx2.Timeout(None))
        self._session: str | None = None
        self._farewells: set[asyncio.Task[None]] = set()

    async def exchange(self, request: JsonObject, headers: Mapping[str, str], hear: Hear) -> JsonObject:
        stream = _Stream(request["id"], headers, hear)
        body = msgspec.json.encode(request)
        async with self._answer("POST", headers, body) as answer:
            if request["method"] == "initialize":
                self._session = answer.headers.get(_SESSION)
            response = await self._read(answer, stream)
        while response is None:
            # A server may end a stream and go on with another one, that is asked for with the last event's id.
            if not stream.event_id or stream.resumes == RESUMES:
                raise McpLost("The server's answer ended too early")
            stream.resumes += 1
            await asyncio.sleep(min(stream.pause, LONGEST_PAUSE))
            async with self._answer("GET", {**headers, "last-event-id": stream.event_id}) as answer:
                response = await self._read(answer, stream)
        return response

    async def notify(self, notification: JsonObject, headers: Mapping[str, str]) -> None:
        async with self._answer("POST", headers, msgspec.json.encode(notification)):
            pass

    def farewell(self, notification: JsonObject, headers: Mapping[str, str]) -> None:
        if "mcp-method" not in headers:  # Of a stateless revision; there, that the stream was closed says it.
            self._in_background(self.notify(notification, headers))

    async def ended(self) -> None:
        await asyncio.Event().wait()  # Between requests there is no connection that could end.

    async def close(self) -> None:
        if self._session is not None:
            self._in_background(self._end_session())
        try:
            if self._farewells:
                await asyncio.wait(self._farewells, timeout=FAREWELL_SECONDS)
        finally:
            await cancel_and_wait(*self._farewells)
            await self._http.aclose()

    def _in_background(self, sending: Coroutine[Any, Any, None]) -> None:
        async def send() -> None:
            with suppress(McpFailed, TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await sending

        task = asyncio.create_task(send())
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _end_session(self) -> None:
        async with self._answer("DELETE", {}):
            pass

    async def _read(self, answer: httpx2.Response, stream: _Stream) -> JsonObject | None:
        """The response to our request, None when the events end before it."""
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        with _in_words():
            if kind == "application/json":
                return _object(await answer.aread())
            if kind != "text/event-stream":
                raise McpLost(f"The server answered with {kind[:100] or 'nothing'}, which is not the protocol's")
            async for event in httpx2.EventSource(answer, MAX_BYTES):
                stream.event_id = event.id or stream.event_id
                stream.pause = stream.pause if event.retry is None else event.retry / 1000
                if event.event == "message" and event.data:
                    message = _object(event.data)
                    if "method" not in message and message.get("id") == stream.number:
                        return message
                    self._heard(message, stream)
        return None

    def _heard(self, message: JsonObject, stream: _Stream) -> None:
        if "method" in message and "id" in message:
            self._in_background(self.notify(answer_to(message), stream.headers))
        elif "method" in message:
            stream.hear(message)

    @asynccontextmanager
    async def _answer(
        self, method: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """An answer that is good; asked for again once with new credentials. Raises McpFailed."""
        for renewed in (False, True):
            given = await self._credentials.headers(renew=renewed)
            session = {} if self._session is None else {_SESSION: self._session}
            sent = {**_ASKS, **given, **session, **headers}
            async with self._stream(method, sent, body) as answer:
                refused = answer.status_code == httpx2.codes.UNAUTHORIZED
                if refused and self._credentials.renewable and not renewed:
                    continue
                await self._check(answer)
                yield answer
                return

    @asynccontextmanager
    async def _stream(
        self, method: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[httpx2.Response]:
        with _in_words():
            request = self._http.build_request(method, self._endpoint, headers=dict(headers), content=body)
            answer = await self._http.send(request, stream=True)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _check(self, answer: httpx2.Response) -> None:
        status = answer.status_code
        if answer.is_success:
            return
        if status == httpx2.codes.NOT_FOUND and self._session is not None:
            self._session = None
            raise McpLost("The server has forgotten the session", unsent=True)
        if status in {httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN}:
            raise McpLost(f"The server refused the credentials: it answered {status}", unsent=True)
        if answer.is_client_error:
            await _raise_error(answer)
            raise McpRefused(f"The server answered {status}")
        raise McpLost(f"The server answered {status}")


async def _raise_error(answer: httpx2.Response) -> None:
    """Raises McpRefused where the body tells an error of the protocol's; newer revisions give it a status, too."""
    if not answer.headers.get("content-type", "").lower().startswith("application/json"):
        return
    with suppress(McpLost), _in_words():
        error = _object(await answer.aread()).get("error")
        if isinstance(error, dict) and isinstance(code := error.get("code"), int):
            raise McpRefused(f"The server answered: {said(error.get('message'))}", code)


@contextmanager
def _in_words() -> Iterator[None]:
    """Failures of HTTP as ours."""
    try:
        yield
    except OutboundRefused as error:
        raise McpLost(str(error)) from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise McpLost("The server cannot be reached", unsent=True) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise McpLost(f"The connection to the server broke: {type(error).__name__}") from error


def _object(text: bytes | str) -> JsonObject:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        value = None
    if not isinstance(value, dict):
        raise McpLost("The server's answer is no JSON object")
    return value
