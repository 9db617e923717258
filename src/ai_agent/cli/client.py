"""The server as the terminal's commands see it."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import httpx
import msgspec

from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.events import TERMINAL

PATIENCE_SECONDS = 60.0
"""How long a server may be away, as while it is restarted, before it is given up."""
RETRY_SECONDS = 0.5

_AWAY = {502, 503, 504}


class Away(Exception):
    """The server cannot be reached, or says itself that it cannot answer now. `told` says so to people."""

    def __init__(self, told: ConfigurationError):
        super().__init__(told.message)
        self.told = told


class Client:
    """A thin REST client. Raises ConfigurationError, with the server's own words, for what it refuses."""

    def __init__(self, url: str, api_key: str | None):
        self._url = url
        # A model may think for long between two tokens; the server's comments keep the stream alive.
        timeout = httpx.Timeout(60, connect=5)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=timeout)

    def call(self, method: str, path: str, **options: Any) -> Any:
        try:
            return self._call(method, path, **options)
        except Away as error:
            raise error.told from error

    def insist(self, method: str, path: str, **options: Any) -> Any:
        """As `call`, and again while the server is away: for what may be said twice."""
        outage = _Outage()
        while True:
            try:
                return self._call(method, path, **options)
            except Away as error:
                outage.bear(error)

    def run(self, agent_id: str, body: dict[str, Any], on_outage: Callable[[], None]) -> Iterator[dict[str, Any]]:
        """The frames of a new execution, to its end. A stream that breaks is taken up again where it broke.

        `on_outage` is called when the server goes away, once for each time. With the key the execution is not begun
        twice, whether the server had heard of it or not.
        """
        outage = _Outage(on_outage)
        key = {"Idempotency-Key": str(uuid.uuid4())}
        again = partial(self._frames, "POST", f"/agents/{agent_id}/execute/stream", json=body, headers=key)
        while True:
            try:
                for position, frame in again():
                    outage.end()
                    if frame is None:
                        continue
                    yield frame
                    if frame["type"] in TERMINAL:
                        return
                    again = partial(self._resumed, frame["ch"].partition(":")[2], position)
                outage.bear(self._away("The stream has ended"))
            except Away as error:
                outage.bear(error)

    def _resumed(self, execution_id: str, position: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": position}
        return self._frames("GET", f"/executions/{execution_id}/events", headers=headers)

    def _frames(self, method: str, path: str, **options: Any) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Positions and frames; a frame of None where the server only says that it is there. Raises Away."""
        try:
            with self._http.stream(method, path, **options) as response:
                if response.is_error:
                    response.read()
                    raise self._refused(response)
                yield from _events(response.iter_lines())
        except httpx.TransportError as error:
            raise self._away(error) from error

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._away(error) from error
        if response.is_error:
            raise self._refused(response)
        return response.json() if response.content else None

    def _away(self, why: object) -> Away:
        return Away(ConfigurationError(f"No answer from {self._url}: {why}", "Start it with: ai-agent serve"))

    def _refused(self, response: httpx.Response) -> Exception:
        try:
            message = response.json()["message"]
        except (ValueError, KeyError):
            message = response.text[:200]
        hint = "Set AI_AGENT_API_KEY, or make a key with: ai-agent keys create" if response.status_code == 401 else ""
        told = ConfigurationError(f"{message} ({response.status_code})", hint)
        return Away(told) if response.status_code in _AWAY else told


class _Outage:
    """How long the server is away, from the first failure to the next sign of life."""

    def __init__(self, on_begin: Callable[[], None] = lambda: None):
        self._on_begin = on_begin
        self._since: float | None = None

    def bear(self, error: Away) -> None:
        """Waits a moment. Raises what people are told when it has lasted too long."""
        if self._since is None:
            self._since = time.monotonic()
            self._on_begin()
        elif time.monotonic() - self._since > PATIENCE_SECONDS:
            raise error.told from error
        time.sleep(RETRY_SECONDS)

    def end(self) -> None:
        self._since = None


def _events(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    position = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            position = value
        elif name == "data":
            yield position, msgspec.json.decode(value)
        elif not name and value:  # A comment, that keeps the stream alive.
            yield position, None
