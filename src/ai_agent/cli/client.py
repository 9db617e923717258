"""The server as the terminal's commands see it."""

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from ai_agent.domain.errors import ConfigurationError


class Client:
    """A thin REST client. Raises ConfigurationError, with the server's own words, for what it refuses."""

    def __init__(self, url: str, api_key: str):
        self._url = url
        # A model may think for long between two tokens; the server's comments keep the stream alive.
        timeout = httpx.Timeout(60, connect=5)
        self._http = httpx.Client(
            base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {api_key}"}, timeout=timeout
        )

    def call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _refused(response)
        return response.json() if response.content else None

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The frames of an execution, as they come."""
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.is_error:
                    response.read()
                    raise _refused(response)
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        yield msgspec.json.decode(line[6:])
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ConfigurationError:
        return ConfigurationError(f"No answer from {self._url}: {error}", "Start it with: ai-agent serve")


def _refused(response: httpx.Response) -> ConfigurationError:
    try:
        message = response.json()["message"]
    except (ValueError, KeyError):
        message = response.text[:200]
    hint = "Set AI_AGENT_API_KEY, or make a key with: ai-agent keys create" if response.status_code == 401 else ""
    return ConfigurationError(f"{message} ({response.status_code})", hint)
