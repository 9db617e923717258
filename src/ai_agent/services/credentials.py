"""Credentials, looked at: a few of an address at a time, and none from where too many bad ones came."""

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from ai_agent.domain.errors import AuthenticationError
from ai_agent.domain.identity import Principal
from ai_agent.services.identity import IdentityService
from ai_agent.services.rate_limits import RateLimitService

LOOKED_AT = 8
"""Unknown credentials of one address that are looked at in the same moment."""


class Credentials:
    """One bucket of an address for all that it tries, over HTTP or on a socket.

    Methods raise AuthenticationError, RateLimitExceeded and ServiceUnavailable.
    """

    def __init__(self, identity: IdentityService, limits: RateLimitService):
        self._identity = identity
        self._limits = limits
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def of_token(self, token: str, address: str) -> Principal:
        """The principal of an API key or a JWT."""
        known = self._identity.known(token)
        return known or await self._tried(token, address, self._identity.verify)

    async def of_ticket(self, ticket: str, address: str) -> Principal:
        """The principal who asked for a ticket, which is used up."""
        return await self._tried(ticket, address, self._identity.redeem_ticket)

    async def _tried(self, text: str, address: str, verify: Callable[[str], Awaitable[Principal]]) -> Principal:
        if not self._limits.enabled:
            return await verify(text)
        # A few at a time, so that who sends many at once has no more of them looked at than who does not.
        async with self._turns.setdefault(address, asyncio.Semaphore(LOOKED_AT)):
            if self._identity.may_be_guessed(text):
                await self._limits.check_address(address)
            try:
                return await verify(text)
            except AuthenticationError as error:
                if error.guessed:
                    await self._limits.note_failure(address)
                raise
