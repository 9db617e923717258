"""The server as the terminal's commands see it."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from ai_agent.domain.errors import ConfigurationError
from ai_agent.domain.events import TERMINAL

RESUME_SECONDS = 30.0
RETRY_SECONDS = 0.5


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
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _refused(response)
        return response.json() if response.content else None

    def run(self, agent_id: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The frames of a new execution, to its end. A stream that breaks is taken up again where it broke."""
        position = None
        stream = self._frames("POST", f"/agents/{agent_id}/execute/stream", json=body)
        deadline = time.monotonic() + RESUME_SECONDS
        while True:
            try:
                for position, frame in stream:  # noqa: B007  # read when the stream has broken
                    yield frame
                    if frame["type"] in TERMINAL:
                        return
                    deadline = time.monotonic() + RESUME_SECONDS
                    path = f"/executions/{frame['ch'].partition(':')[2]}/events"
            except httpx.TransportError as error:
                if position is None or time.monotonic() > deadline:
                    raise self._unreachable(error) from error
            time.sleep(RETRY_SECONDS)
            resume = {"Accept": "text/event-stream", "Last-Event-ID": str(position)}
            stream = self._frames("GET", path, headers=resume)

    def _frames(self, method: str, path: str, **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        with self._http.stream(method, path, **options) as response:
            if response.is_error:
                response.read()
                raise _refused(response)
            position = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    position = value
                elif name == "data":
                    yield position, msgspec.json.decode(value)

    def _unreachable(self, error: Exception) -> ConfigurationError:
        return ConfigurationError(f"No answer from {self._url}: {error}", "Start it with: ai-agent serve")


def _refused(response: httpx.Response) -> ConfigurationError:
    try:
        message = response.json()["message"]
    except (ValueError, KeyError):
        message = response.text[:200]
    hint = "Set AI_AGENT_API_KEY, or make a key with: ai-agent keys create" if response.status_code == 401 else ""
    return ConfigurationError(f"{message} ({response.status_code})", hint)
