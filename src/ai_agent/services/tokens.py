"""Tokens in place of an API key: made, renewed, revoked; and tickets that open a socket.

A refresh token is good once. One that comes a second time was stolen, or its thief came first: nobody knows which, so
its whole family ends. Source: RFC 9700, section 4.14.
"""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from ai_agent.domain.audit import Action, Actor, Target
from ai_agent.domain.errors import AuthenticationError, AuthorizationError
from ai_agent.domain.fields import new_id, now, to_json
from ai_agent.domain.idempotency import IdempotencyKey
from ai_agent.domain.identity import Principal
from ai_agent.domain.tokens import Tokens, WebSocketTicket
from ai_agent.security.api_keys import REFRESH_TOKEN, TICKET, KeyHasher, generate, well_formed
from ai_agent.security.jwt import Claims, Jwt
from ai_agent.services.credential_changes import KEPT
from ai_agent.services.housekeeping import removed_in_steps
from ai_agent.services.idempotency import WAIT_SECONDS, only_once
from ai_agent.storage import audit, tokens
from ai_agent.storage.database import Connection, Database
from ai_agent.storage.tokens import Grant, Ticket

TICKET_SECONDS = 30

_ENDED = "The refresh token is not good, or not any more: get new ones with the API key"
"""The same whatever is wrong with it."""


class Lifetimes(msgspec.Struct, frozen=True):
    """Seconds: of an access token, and of a refresh token that is not used."""

    access: int
    refresh: int


class TokenService:
    def __init__(
        self, database: Database, jwt: Jwt, refresh: KeyHasher, tickets: KeyHasher, environment: str, times: Lifetimes
    ):
        self._database = database
        self._jwt = jwt
        self._refresh = refresh
        self._tickets = tickets
        self._environment = environment
        self._times = times

    async def issue(self, principal: Principal, actor: Actor, key: IdempotencyKey | None = None) -> Tokens:
        """The first tokens of a new family. Raises AuthorizationError for whoever came without an API key."""
        if principal.key_id is None or principal.family_id is not None:
            raise AuthorizationError("Tokens are made from an API key only")
        at, family_id = now(), new_id()
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            await only_once(rows, principal.subject, key)
            grant = await tokens.grant(rows, principal.key_id, at)
            if grant is None:
                raise AuthenticationError
            await tokens.add_family(rows, family_id, grant, self._end(grant, at), at)
            made = await self._make(rows, grant, family_id, at)
            await audit.record(rows, actor, Action.TOKEN_ISSUED, _family(family_id))
        return made

    async def refresh(self, text: str, actor: Actor, key: IdempotencyKey | None = None) -> Tokens:
        """The next tokens, with what the API key allows now. Raises AuthenticationError.

        A refresh token that was used before ends its family, which is committed although the answer is an error.
        """
        digest, family_id = await self._known(text)
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            # Before the token is looked at: who repeats a request by its key is no thief.
            await only_once(rows, f"family:{family_id}", key)
            made = await self._rotated(rows, digest, family_id, actor)
        if made is None:
            raise AuthenticationError(_ENDED)
        return made

    async def _rotated(self, rows: Connection, digest: str, family_id: UUID, actor: Actor) -> Tokens | None:
        """None when the family was ended, which is to be committed. Raises AuthenticationError, which undoes all."""
        at = now()
        if not await tokens.use(rows, digest, at):
            reused = not await tokens.is_unused(rows, digest)
            if reused and await self._end_family(rows, family_id, actor, Action.TOKEN_REUSED):
                return None
            raise AuthenticationError(_ENDED)
        grant = await tokens.grant_of_family(rows, family_id, at)
        if grant is None or not await tokens.prolong(rows, family_id, self._end(grant, at)):
            raise AuthenticationError(_ENDED)
        made = await self._make(rows, grant, family_id, at)
        holder = msgspec.structs.replace(actor, name=grant.owner_id, key_id=grant.key_id)
        await audit.record(rows, holder, Action.TOKEN_REFRESHED, _family(family_id))
        return made

    async def revoke(self, text: str, actor: Actor, key: IdempotencyKey | None = None) -> None:
        """Ends the family of a refresh token. One that nobody knows is revoked already (RFC 7009)."""
        try:
            _, family_id = await self._known(text)
        except AuthenticationError:
            return
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            await only_once(rows, f"family:{family_id}", key, "the token is revoked")
            await self._end_family(rows, family_id, actor, Action.TOKEN_REVOKED)

    async def ticket(self, principal: Principal, key: IdempotencyKey | None = None) -> WebSocketTicket:
        """Opens one socket as this principal, for so many seconds."""
        text = generate(self._environment, TICKET)
        stored = Ticket(
            subject=principal.subject,
            scopes=to_json(sorted(principal.scopes)),
            tier=principal.tier,
            key_id=principal.key_id,
            family_id=principal.family_id,
            valid_until=principal.expires_at,
            expires_at=now() + timedelta(seconds=TICKET_SECONDS),
        )
        async with self._database.unit_of_work(lock_seconds=WAIT_SECONDS if key else None) as rows:
            await only_once(rows, principal.subject, key)
            await tokens.add_ticket(rows, self._tickets.digest(text), stored)
        return WebSocketTicket(text, TICKET_SECONDS)

    async def forget_expired(self) -> int:
        """Removes tokens, families and tickets that ended, and tells how many they were."""
        past = now() - KEPT
        return await removed_in_steps(self._database, lambda rows: tokens.forget(rows, past))

    async def _known(self, text: str) -> tuple[str, UUID]:
        """The digest and the family of a refresh token. Raises AuthenticationError; a typo costs no query."""
        if well_formed(text, REFRESH_TOKEN):
            for digest in self._refresh.digests(text):
                if (family_id := await tokens.family_of(self._database.reader, digest)) is not None:
                    return digest, family_id
        raise AuthenticationError(_ENDED)

    async def _make(self, rows: Connection, grant: Grant, family_id: UUID, at: datetime) -> Tokens:
        """An access token and a refresh token, neither of which outlives the key."""
        refresh_token = generate(self._environment, REFRESH_TOKEN)
        end = self._end(grant, at)
        await tokens.add(rows, self._refresh.digest(refresh_token), family_id, end, at)
        # Whole seconds, rounded down.
        seconds = int(min(self._times.access, (end - at).total_seconds()))
        scopes = msgspec.json.decode(grant.scopes, type=list[str])
        claims = Claims(
            sub=grant.owner_id,
            exp=int(at.timestamp()) + seconds,
            scope=" ".join(sorted(scopes)),
            tier=grant.tier,
            family_id=family_id,
        )
        return Tokens(self._jwt.signed(claims), "Bearer", seconds, refresh_token)

    def _end(self, grant: Grant, at: datetime) -> datetime:
        end = at + timedelta(seconds=self._times.refresh)
        return end if grant.expires_at is None else min(end, grant.expires_at)

    async def _end_family(self, rows: Connection, family_id: UUID, actor: Actor, action: Action) -> bool:
        """Revokes a family, and notes who asked for it. False when it is revoked already."""
        owner = await tokens.revoke_family(rows, family_id, now())
        if owner is None:
            return False
        if action is Action.TOKEN_REVOKED:
            actor = msgspec.structs.replace(actor, name=owner)
        await audit.record(rows, actor, action, _family(family_id), {"owner_id": owner})
        return True


def _family(family_id: UUID) -> Target:
    return Target("token_family", str(family_id))
