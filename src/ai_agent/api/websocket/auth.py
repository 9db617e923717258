"""Who opens a socket: known by the upgrade's header, by a ticket in its address, or by the token of the first frame."""

import msgspec
from litestar._parsers import parse_query_string
from litestar.types import Scope

from ai_agent.api.headers import bearer_token
from ai_agent.api.websocket.origins import Origins
from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.identity import Principal
from ai_agent.observability.logging import is_secret, redacted
from ai_agent.services.credentials import Credentials
from ai_agent.services.identity import ANYONE, IdentityService

TICKET = "ticket"


class Login(msgspec.Struct, frozen=True):
    """Who came, and with which token: None for a ticket, which is used up, and where nobody has to bring any."""

    principal: Principal
    token: str | None = None


class Authenticator:
    """Methods raise AuthenticationError, RateLimitExceeded after too many bad credentials, and ServiceUnavailable."""

    def __init__(self, identity: IdentityService, credentials: Credentials, origins: Origins, *, required: bool):
        self._identity = identity
        self._credentials = credentials
        self._origins = origins
        self._required = required

    async def on_upgrade(self, scope: Scope) -> Login | None:
        """None when the first frame has to say who it is. Raises AuthorizationError for a page from elsewhere."""
        self._origins.check(scope)
        ticket, token = _ticket(scope), bearer_token(scope)
        if not self._required:
            return Login(ANYONE)
        address: str = scope["client_address"]  # type: ignore[typeddict-item]  # ours
        if ticket is not None:
            return Login(await self._credentials.of_ticket(ticket, address))
        return None if token is None else await self.verify(token, address)

    async def verify(self, token: str, address: str) -> Login:
        if not self._required:
            return Login(ANYONE)
        return Login(await self._credentials.of_token(token, address), token)

    async def confirm(self, login: Login) -> Login:
        """The same one, with what is allowed now. Raises AuthenticationError when that is nothing any more."""
        if not self._required:
            return login
        if login.token is None:
            return Login(await self._identity.confirm(login.principal))
        return Login(await self._identity.verify(login.token), login.token)


def _ticket(scope: Scope) -> str | None:
    """The ticket of the address. Raises AuthenticationError for any other credentials there.

    Addresses are written to the logs of whatever stands between, and only a ticket is worth nothing afterwards.
    """
    tickets = []
    for name, value in parse_query_string(scope["query_string"]):
        if name == TICKET:
            tickets.append(value)
        elif is_secret(name) or redacted(name) != name or redacted(value) != value:
            raise AuthenticationError("Credentials are not taken from the address: send them in the first frame")
    if len(tickets) > 1:
        raise AuthenticationError
    return tickets[0] if tickets else None
