"""What open sockets are allowed, looked at again when their credentials have changed, or others took their place."""

import asyncio
from collections.abc import Iterable, Mapping, Set
from contextvars import Context
from typing import TYPE_CHECKING

from ai_agent.api.websocket.auth import Authenticator, Login
from ai_agent.api.websocket.subscriptions import Subscription
from ai_agent.background import cancel_and_wait
from ai_agent.domain.errors import AIAgentError, AuthenticationError, AuthorizationError
from ai_agent.domain.frames import CloseCode

if TYPE_CHECKING:
    from ai_agent.api.websocket.connection import Connection

AT_ONCE = 8
"""Connections that are looked at in the same moment: they share the database with requests."""


class CredentialReview:
    """Ends what a revoked credential carried."""

    def __init__(self, authenticator: Authenticator, connections: Mapping[str, "Connection"]):
        self._authenticator = authenticator
        self._connections = connections
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def changed(self, credentials: Set[str] | None) -> None:
        """These credentials may have ended; None for all."""
        for connection in self._connections.values():
            if concerns(credentials, connection.login):
                task = asyncio.create_task(self.look(connection), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        await cancel_and_wait(*self._tasks)

    async def look(self, connection: "Connection") -> None:
        """Whether its credentials hold, and what they allow now."""
        async with self._turns:
            login = connection.login
            try:
                confirmed = await self._authenticator.confirm(login)
                if connection.login is login and confirmed != login:
                    await renew(connection, confirmed)
            except AuthenticationError:
                if connection.login is login:
                    connection.end(CloseCode.REVOKED)
            except AIAgentError:
                # Whether they hold nobody knows now: the client comes again, and is asked for them.
                connection.end(CloseCode.UNAVAILABLE)


def concerns(credentials: Set[str] | None, login: Login) -> bool:
    """Whether what was verified may not hold any more, because one of these has changed."""
    if credentials is None:
        return True
    principal = login.principal
    if principal.key_id is None and login.token is not None:
        return any(credential.startswith("jwk:") for credential in credentials)
    return not credentials.isdisjoint({f"key:{principal.key_id}", f"family:{principal.family_id}"})


async def renew(connection: "Connection", login: Login) -> None:
    """Goes on with these credentials, and ends the subscriptions that they do not carry. Raises ServiceUnavailable."""
    connection.authenticated(login)
    connection.expiry.watch(login.principal.expires_at)
    await review(connection, connection.subscriptions.values())


async def review(connection: "Connection", subscriptions: Iterable[Subscription | None]) -> None:
    """Ends the subscriptions to what the client may not see any more. Raises ServiceUnavailable."""
    for subscription in list(subscriptions):
        if subscription is None or subscription.closed:
            continue
        try:
            await connection.rooms.channels.review(connection.principal, subscription)
        except AuthorizationError:
            await connection.unsubscribe(subscription.name, "revoked")
