"""Who we are to an MCP server: headers that were entrusted to us, or a token that they are exchanged for.

Source: RFC 6749, 4.4 (client credentials) and 2.3.1 (Basic), RFC 8707 (the resource that a token is for).
"""

import asyncio
import base64
import time
from collections.abc import Mapping
from urllib.parse import quote_plus

import httpx2
import msgspec

from ai_agent.domain.mcp_servers import Authentication
from ai_agent.execution.mcp.failures import McpLost
from ai_agent.security.outbound import OutboundGuard, OutboundRefused
from ai_agent.security.outbound_http import guarded_client

TOKEN_BYTES = 64 * 1024
TOKEN_SECONDS = 300.0
"""How long a token is used that does not say how long it is good."""
EARLY_SECONDS = 30.0


class _Token(msgspec.Struct):
    access_token: str
    expires_in: float = TOKEN_SECONDS


class FixedHeaders:
    renewable = False

    def __init__(self, headers: Mapping[str, str]):
        self._headers = headers

    async def headers(self, *, renew: bool) -> Mapping[str, str]:  # noqa: ARG002  # there is nothing to renew
        return self._headers


class ClientCredentials:
    """A token, fetched when it is needed and kept until shortly before its end."""

    renewable = True

    def __init__(self, guard: OutboundGuard, given: Authentication, resource: str):
        self._guard = guard
        self._given = given
        self._resource = resource
        self._token = ""
        self._good_until = 0.0
        self._fetching = asyncio.Lock()

    async def headers(self, *, renew: bool) -> Mapping[str, str]:
        """Raises McpLost."""
        refused = self._token if renew else None
        async with self._fetching:
            if self._token in ("", refused) or time.monotonic() >= self._good_until:
                token = await self._fetch()
                self._token = token.access_token
                self._good_until = time.monotonic() + token.expires_in - EARLY_SECONDS
        return {"authorization": f"Bearer {self._token}"}

    async def _fetch(self) -> _Token:
        given = self._given
        form = {"grant_type": "client_credentials", "resource": self._resource}
        form |= {} if given.scope is None else {"scope": given.scope}
        pair = f"{quote_plus(given.client_id or '')}:{quote_plus(given.client_secret or '')}"
        basic = {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        try:
            async with guarded_client(self._guard, max_bytes=TOKEN_BYTES, timeout=httpx2.Timeout(None)) as http:
                answer = await http.post(
                    given.token_url or "", data=form, headers=basic | {"accept": "application/json"}
                )
        except OutboundRefused as error:
            raise McpLost(f"No token: {error}", unsent=True) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise McpLost("No token: its server cannot be reached", unsent=True) from error
        if not answer.is_success:
            raise McpLost(f"No token: its server answered {answer.status_code}", unsent=True)
        try:
            return msgspec.json.decode(answer.content, type=_Token)
        except msgspec.MsgspecError:
            raise McpLost("No token: its server's answer holds none", unsent=True) from None
