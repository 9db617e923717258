"""The REST API, and the streams of its executions, which outlive the connections they come over."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from ai_agent.client import waits
from ai_agent.client.address import api_key as found_key
from ai_agent.client.address import server_url
from ai_agent.client.errors import Refused, Unreachable
from ai_agent.client.events import Event
from ai_agent.client.execution_stream import ExecutionStream, Request
from ai_agent.domain.frames import Since

_AWAY = {502, 503, 504}


def _nothing() -> None:
    """Whoever does not want to know of an outage."""


class Client:
    """Without a `url` or an `api_key` both are found as `ai-agent chat` finds them.

    `patience` is how many seconds the server may be away, as while it is restarted, before a stream, or `insist`, gives
    it up. Every method raises Refused for what the server says no to, and Unreachable when it is not there.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, patience: float = 60.0):
        self.url = server_url(url)
        key = found_key() if api_key is None else api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A model may think for long between two tokens; the server's comments keep the stream alive.
        timeout = httpx.Timeout(60, connect=5)
        self._http = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=timeout)
        self._patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request, and the JSON of its answer. `options` are httpx's: `json`, `params`, `headers`."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _refused(response)
        return response.json() if response.content else None

    def insist(self, method: str, path: str, **options: Any) -> Any:
        """As `call`, and again while the server is away: for what may be said twice."""
        outage = _Outage(self._patience)
        while True:
            try:
                return self.call(method, path, **options)
            except Unreachable as error:
                outage.bear(error)

    def execute(
        self, agent_id: str, message: str, *, on_outage: Callable[[], None] = _nothing, **body: Any
    ) -> Iterator[Event]:
        """The events of a new execution, to its end. A stream that breaks is taken up again where it broke.

        `body` has the other members of the request, such as `session_id`. `on_outage` is called once each time that
        the server goes away. The execution is not begun twice, whether the server had heard of it or not.
        """
        key = {"Idempotency-Key": str(uuid.uuid4())}
        path = f"/agents/{quote(agent_id, safe='')}/execute/stream"
        return self._stream(ExecutionStream(Request("POST", path, key, {"message": message, **body})), on_outage)

    def follow(
        self, execution_id: str, since: Since | None = None, *, on_outage: Callable[[], None] = _nothing
    ) -> Iterator[Event]:
        """The events of an execution to its end, from the first or behind a position."""
        position = "" if since is None else f"{since.epoch}:{since.seq}".lstrip(":")
        return self._stream(ExecutionStream.of(quote(execution_id, safe=""), position), on_outage)

    def _stream(self, stream: ExecutionStream, on_outage: Callable[[], None]) -> Iterator[Event]:
        outage = _Outage(self._patience, on_outage)
        while not stream.ended:
            try:
                for event in self._events(stream):
                    outage.end()
                    if event is not None:
                        yield event
            except Unreachable as error:
                outage.bear(error)

    def _events(self, stream: ExecutionStream) -> Iterator[Event | None]:
        """To the end; None for a comment, which says that the server is there. Raises Unreachable before the end."""
        method, path, headers, body = stream.request
        try:
            with self._http.stream(method, path, headers=headers, json=body) as response:
                if response.is_error:
                    response.read()
                    raise _refused(response)
                for line in response.iter_lines():
                    event = stream.hear(line)
                    if event is not None or line.startswith(":"):
                        yield event
                    if stream.ended:
                        return
        except (httpx.TransportError, msgspec.MsgspecError) as error:
            raise self._unreachable(error) from error
        raise self._unreachable("the stream has ended")

    def _unreachable(self, why: object) -> Unreachable:
        return Unreachable(f"No answer from {self.url}: {why}")


def _refused(response: httpx.Response) -> Refused | Unreachable:
    try:
        told = response.json()
        message, code, details = str(told["message"]), str(told.get("code", "")), told.get("details")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code, details = response.text[:200], "", None
    if response.status_code in _AWAY:
        return Unreachable(f"{message} ({response.status_code})")
    return Refused(message, code, response.status_code, details)


class _Outage:
    """How long the server is away, from the first failure to the next sign of life."""

    def __init__(self, patience: float, on_begin: Callable[[], None] = _nothing):
        self._patience = patience
        self._on_begin = on_begin
        self._since: float | None = None
        self._failures = 0

    def bear(self, error: Unreachable) -> None:
        """Waits a moment; raises the error when it has lasted too long."""
        self._failures += 1
        if self._since is None:
            self._since = time.monotonic()
            self._on_begin()
        elif time.monotonic() - self._since > self._patience:
            raise error
        time.sleep(waits.share(waits.longest_wait_ms(self._failures)))

    def end(self) -> None:
        self._since = None
        self._failures = 0
