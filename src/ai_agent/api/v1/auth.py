"""`/auth`: tokens in place of an API key, and who the caller is."""

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from ai_agent.api.dependencies import Caller, actor
from ai_agent.api.guards import IDENTIFIED, PUBLIC
from ai_agent.api.idempotency import ONCE, idempotency_key
from ai_agent.api.openapi import may_answer
from ai_agent.domain.identity import Scope
from ai_agent.domain.tokens import CallerRole, Me, RefreshToken, Tokens, WebSocketTicket
from ai_agent.services.rate_limits import RateLimitService
from ai_agent.services.tokens import TokenService


class AuthController(Controller):
    path = "/auth"
    tags = ["Auth"]

    @post("/token", status_code=200, opt=IDENTIFIED | ONCE | may_answer(403))
    async def create_token(self, request: Caller, tokens: NamedDependency[TokenService]) -> Tokens:
        """Get tokens for an API key

        The access token goes into `Authorization` in the key's place and has its scopes; it never outlives the key. The
        refresh token gets the next one. Needs an API key: a JWT is 403. No answer is stored: a repeated
        `Idempotency-Key` is 409.
        """
        return await tokens.issue(request.user, actor(request), idempotency_key(request))

    @post("/refresh", status_code=200, opt=PUBLIC | ONCE | may_answer(401, 503))
    async def refresh_token(
        self, request: Caller, data: JSONBody[RefreshToken], tokens: NamedDependency[TokenService]
    ) -> Tokens:
        """Get the next tokens

        A refresh token is good once: keep the new one. Scopes and tier are what the API key has now. One that comes
        a second time was stolen, perhaps, and ends all tokens that came of the same key's token. No answer is stored: a
        repeated `Idempotency-Key` is 409, and ends nothing.
        """
        return await tokens.refresh(data.refresh_token, actor(request), idempotency_key(request))

    @post("/revoke", status_code=204, opt=PUBLIC | ONCE | may_answer(503))
    async def revoke_token(
        self, request: Caller, data: JSONBody[RefreshToken], tokens: NamedDependency[TokenService]
    ) -> None:
        """Revoke tokens

        Ends a refresh token with all that came before and after it, access tokens included, on every node within a
        second. One that is not known is answered alike (RFC 7009).
        """
        await tokens.revoke(data.refresh_token, actor(request), idempotency_key(request))

    @post("/ws-ticket", status_code=200, opt=IDENTIFIED | ONCE)
    async def create_ws_ticket(self, request: Caller, tokens: NamedDependency[TokenService]) -> WebSocketTicket:
        """Get a ticket for a WebSocket

        For browsers, which cannot send `Authorization` there. It opens one socket, once, as the caller, and ends with
        the caller's own credentials. No answer is stored: a repeated `Idempotency-Key` is 409.
        """
        return await tokens.ticket(request.user, idempotency_key(request))

    @get("/me", opt=IDENTIFIED)
    async def get_me(self, request: Caller, rate_limits: NamedDependency[RateLimitService]) -> Me:
        """Get who the caller is

        The owner of all that the caller makes, what the credentials allow, and how often.
        """
        caller = request.user
        admin = caller.may(Scope.ADMIN)
        return Me(
            user=caller.subject,
            role=CallerRole.ADMIN if admin else CallerRole.USER,
            tier=rate_limits.tier(caller),
            scopes=[Scope.ADMIN] if admin else sorted(caller.scopes),
            limits=await rate_limits.states(caller),
            key_id=caller.key_id,
            expires_at=caller.expires_at,
        )
