"""Who is at the other end of a socket."""

from litestar.types import WebSocketScope

from ai_agent.api.headers import header
from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.identity import Principal
from ai_agent.services.identity import ANYONE, IdentityService


class Authenticator:
    def __init__(self, identity: IdentityService, *, required: bool):
        self._identity = identity
        self._required = required

    async def on_upgrade(self, scope: WebSocketScope) -> Principal | None:
        """Who opens a socket, None without credentials. Raises AuthenticationError."""
        if not self._required:
            return ANYONE
        credentials = header(scope, b"authorization")
        if credentials is None:
            return None
        scheme, _, token = credentials.partition(" ")
        if scheme.lower() != "bearer":
            raise AuthenticationError
        return await self.verify(token, scope["client_address"])  # type: ignore[typeddict-item]  # ours

    async def verify(self, token: str, address: str) -> Principal:  # noqa: ARG002
        """Raises AuthenticationError, ServiceUnavailable."""
        return self._identity.known(token) or await self._identity.verify(token)
